"""Control groups of a lab: limits for its nodes, and the one sure way to find everything it started.

Whatever a lab starts is born in its own control group, and pods, shims and forgotten children cannot leave it. So
taking a lab away needs no list of processes: what is in the group goes. Both layouts are served, the unified one (v2)
and the one with a hierarchy for each controller (v1); inside a node the group is the root of what it sees.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .process import ProcessId, reap

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "clustermesh-lab"
LEAF = "init"  # on v2, where a node's own programs live: beside child groups no process may


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree of control groups."""

    mount: Path
    controllers: str  # as a mount option ("cpuset", "name=systemd"); "" for v2

    @property
    def is_v2(self) -> bool:
        """Whether this is the unified hierarchy."""
        return not self.controllers


def hierarchies() -> list[Hierarchy]:
    """The trees mounted on this machine."""
    return list(_parse(Path("/proc/self/mountinfo").read_text()))


def _parse(mountinfo: str) -> Iterator[Hierarchy]:
    seen = set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        mount = Path(before.split()[4])
        if kind not in ("cgroup", "cgroup2") or not str(mount).startswith("/sys/fs/cgroup"):
            continue
        names = [o for o in options.split(",") if o not in ("rw", "ro", "xattr", "clone_children")]
        names = [n for n in names if not n.startswith("release_agent=")]
        found = Hierarchy(mount, "" if kind == "cgroup2" else ",".join(names))
        if found.controllers not in seen:
            seen.add(found.controllers)
            yield found


@dataclass(frozen=True, slots=True)
class Group:
    """One control group, present in every hierarchy."""

    path: str  # clustermesh-lab/LAB[/MEMBER]

    def create(self) -> list[Path]:
        """Make it; the files by which a process joins it (on v2 its leaf, once it has handed out control)."""
        joins = []
        for tree in hierarchies():
            current = tree.mount
            for part in self.path.split("/"):
                if tree.is_v2:
                    _delegate(current)
                current /= part
                current.mkdir(exist_ok=True)
                if "cpuset" in tree.controllers.split(","):
                    _inherit_cpuset(current)
            leaf = current / LEAF
            joins.append((leaf if tree.is_v2 and leaf.is_dir() else current) / "cgroup.procs")
        return joins

    def processes(self) -> list[ProcessId]:
        """Everything that runs in it and below."""
        pids: set[int] = set()
        for tree in hierarchies():
            for folder, _, files in os.walk(tree.mount / self.path):
                if "cgroup.procs" in files:
                    pids |= _read_pids(Path(folder) / "cgroup.procs")
        return [p for p in map(ProcessId.of, pids) if p]

    def kill(self, timeout_s: float = 10) -> list[ProcessId]:
        """SIGKILL everything in it until nothing is left; what could not be killed in time."""
        deadline = time.monotonic() + timeout_s
        while left := self.processes():
            for process in left:
                process.send(9)
            if time.monotonic() > deadline:
                break
            time.sleep(0.03)
        reap()
        return left

    def remove(self, timeout_s: float = 5) -> bool:
        """Remove the emptied group; whether it is gone everywhere."""
        deadline = time.monotonic() + timeout_s
        while not all(_remove_tree(t.mount / self.path) for t in hierarchies()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def remove_root_if_empty() -> None:
    """Take the parent of all labs away after the last one."""
    for tree in hierarchies():
        try:
            (tree.mount / ROOT).rmdir()
        except OSError:
            continue


def _read_pids(file: Path) -> set[int]:
    try:
        return {int(p) for p in file.read_text().split()}
    except OSError:
        return set()


def _remove_tree(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            Path(folder).rmdir()
        except OSError:
            return False
    return not top.exists()


def _inherit_cpuset(group: Path) -> None:
    """A new v1 cpuset has no processors, and nothing can join it before it has some."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not (group / file).read_text().strip():
            (group / file).write_text((group.parent / file).read_text())


def _delegate(group: Path) -> None:
    """Let v2 groups below use every controller this one has."""
    for controller in (group / "cgroup.controllers").read_text().split():
        try:
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue  # one that cannot be used here (rt processes, say) must not cost the others
