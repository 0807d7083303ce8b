"""What a running lab is, written down so that any later command finds it.

One directory per lab below /run. The directory itself is the lock of the lab, the one above it that of all labs (they
share the numbers that addresses and interface names are made of): a lock file would be one more thing to leave behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import LabError
from .places import DISKS, RUN, private_dir, private_file
from .progress import say
from .topology import Topology

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LABS = 100  # 10.128.0.0/16 up to 10.227.0.0/16


@dataclass(frozen=True, slots=True)
class Record:
    """What `lab up` decided."""

    index: int
    topology: Topology
    machines: bool
    boot: str
    is_complete: bool = False

    def is_from_this_boot(self) -> bool:
        """Nothing of a lab survives a restart of the machine, whatever the files say."""
        return self.boot == boot_id()


def boot_id() -> str:
    """The machine's current boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Store:
    """The files of one lab."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.run = RUN / name
        self.disks = DISKS / name
        self.netns = self.run / "netns"
        self.pki = self.run / "pki"
        self._file = self.run / "lab.json"

    def create(self) -> None:
        """Make the lab's directories."""
        for folder in (RUN, self.run, self.netns, self.pki, DISKS, self.disks):
            private_dir(folder)

    def exists(self) -> bool:
        """Whether anything of this lab is there, whole or not."""
        return self.run.exists() or self.disks.exists()

    def read(self) -> Record | None:
        """What was recorded; None when there is no lab or its record is broken."""
        try:
            found = json.loads(self._file.read_text())
            return Record(
                index=found["index"],
                topology=Topology.from_json(json.dumps(found["topology"])),
                machines=found["machines"],
                boot=found["boot"],
                is_complete=found["complete"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Record it."""
        content = {
            "index": record.index,
            "topology": json.loads(record.topology.to_json()),
            "machines": record.machines,
            "boot": record.boot,
            "complete": record.is_complete,
        }
        private_file(self._file, json.dumps(content, indent=1))

    def clear(self) -> None:
        """Empty the lab's directories; the one that is the lock stays."""
        shutil.rmtree(self.disks, ignore_errors=True)
        for item in self.run.iterdir():
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink()

    def remove(self) -> None:
        """Take the directories away."""
        for folder in (self.run, self.disks):
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                raise LabError(f"{folder} could not be removed", do="see what is mounted or open in it")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes a lab."""
        with _directory_lock(self.run, f"another command is changing lab {self.name!r}"):
            yield


@contextmanager
def all_labs_locked() -> Iterator[None]:
    """While a lab takes or frees its number."""
    with _directory_lock(RUN, "another lab is starting"):
        yield


@contextmanager
def _directory_lock(path: Path, why: str) -> Iterator[None]:
    while True:
        private_dir(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _wait_lock(fd, why)
            if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:  # else it was removed while we waited
                yield
                return
        finally:
            os.close(fd)


def _wait_lock(fd: int, why: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{why}: waiting")
        fcntl.flock(fd, fcntl.LOCK_EX)


def labs() -> list[str]:
    """Names of all labs of which anything is left."""
    found = {f.name for base in (RUN, DISKS) if base.is_dir() for f in base.iterdir() if f.is_dir()}
    return sorted(found)


def free_index(taken_by_routes: set[int]) -> int:
    """The lowest number no other lab and no route of this machine uses."""
    used = {record.index for name in labs() if (record := Store(name).read())}
    for index in range(MAX_LABS):
        if index not in used and index not in taken_by_routes:
            return index
    raise LabError(f"all {MAX_LABS} lab numbers are in use: {', '.join(labs())}", do="`lab down` one")
