# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Names of the variables that the collection reads, and those of an inventory that look like them and are none."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = ("playbooks/*.yml", "roles/*/*/*.yml")  # what they register too, which a second playbook of one run finds
NAME = re.compile(r"\bmesh_[a-z0-9_]+\b")
LIKENESS = 0.86  # one wrong letter in seven


@lru_cache(maxsize=1)
def known():
    """Every name that is in a playbook or a role."""
    return frozenset(name for glob in FILES for file in ROOT.glob(glob) for name in NAME.findall(file.read_text()))


def misspelt(names):
    """One line for each of the names that nothing reads and that is nearly another's."""
    return [
        f"{name} is no variable of this collection; did you mean {close[0]}?"
        for name in sorted(names)
        if name.startswith("mesh_") and name not in known()
        for close in [get_close_matches(name, known(), 1, LIKENESS)]
        if close
    ]
