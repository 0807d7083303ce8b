# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Puts wheels of known digests into a virtual environment.

All versions are chosen where the wheels were made, so that nothing is left to resolve: unpacking takes a fifth of the time
that pip needs, and pip itself need not be there.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile

PROGRAM = """#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""


class BadWheel(Exception):
    """A wheel is not what was promised."""


def digests(sums):
    """Name -> SHA-256 of lines as ``sha256sum`` prints them."""
    pairs = (line.split() for line in sums.splitlines() if line.strip())
    return {name.lstrip("*"): digest for digest, name in pairs}


def unpack(archive, wanted, place):
    """Unpacks every wanted wheel of a tar archive; nothing of one that has another digest."""
    with tarfile.open(archive) as tar:
        members = {member.name.rpartition("/")[2]: member for member in tar if member.isfile()}
        for name, digest in wanted.items():
            if name not in members:
                raise BadWheel(f"{name} is not among the wheels: run make wheels again")
            content = tar.extractfile(members[name]).read()
            if hashlib.sha256(content).hexdigest() != digest:
                raise BadWheel(f"{name} is not the one of this release: its SHA-256 differs")
            _unpack_one(name, content, place)


def _unpack_one(name, content, place):
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        if any(entry.partition("/")[0].endswith(".data") for entry in wheel.namelist()):
            raise BadWheel(f"{name} has files for other places than the libraries, which is not supported")
        wheel.extractall(place)  # noqa: S202  what is in it was known where its digest was taken


def program(python, module, function):
    """The text of a program that runs a function of a module."""
    return PROGRAM.format(python=python, module=module, function=function)
