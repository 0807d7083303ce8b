"""Where the lab keeps things.

State that describes what runs lives below /run and goes with the lab; disks of the nodes live below /var/lib, because
containerd cannot put its layers on a tmpfs or on an overlay; what costs minutes to make (programs, images, the
machines' root file system) lives in the cache of the user who made it and survives every lab.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import LabError

RUN = Path("/run/clustermesh-lab")
DISKS = Path("/var/lib/clustermesh-lab")


def cache() -> Path:
    """The user's cache directory of the lab ($CLUSTERMESH_LAB_CACHE, $XDG_CACHE_HOME or ~/.cache)."""
    chosen = os.environ.get("CLUSTERMESH_LAB_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return private_dir(Path(chosen) if chosen else base / "clustermesh-lab")


def private_dir(path: Path) -> Path:
    """That directory, made if need be, readable by its owner only."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def private_file(path: Path, content: str | bytes) -> Path:
    """Write a file that only its owner may read, whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    beside.replace(path)
    return path


def lab_name(given: str | None) -> str:
    """The lab that is meant: the given name, else $CLUSTERMESH_LAB, else "default"."""
    name = given or os.environ.get("CLUSTERMESH_LAB") or "default"
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
        raise LabError(f"lab name {name!r} is not usable", do="use up to 32 lower-case letters, digits and '-'")
    return name
