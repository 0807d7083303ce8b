"""Process 1 of a node: makes the node's own root file system, then supervises its programs.

A node shares the machine's /usr and other directories read-only; what it writes is its own: /etc is an overlay over
the machine's, /var a directory on the lab's disk, /run, /tmp and /opt are fresh. So nothing of a node is left on the
machine, and a pod that writes to its host's file system does not write to yours.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..cgroups import LEAF, Hierarchy, hierarchies
from . import supervise

CLONE_NEWCGROUP = 0x02000000
OWN = ("proc", "sys", "dev", "run", "tmp", "etc", "var", "opt")


def mount(*arguments: str | Path) -> None:
    """mount(8), which has to succeed."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def bind(source: Path, target: Path) -> None:
    """Show a directory or file in a second place."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, target)


def build_root(spec: dict[str, Any]) -> Path:
    """The node's root directory, ready to be entered."""
    disk = Path(spec["disk"])
    trees = hierarchies()
    root = disk / "root"
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for entry in Path("/").iterdir():
        target = root / entry.name
        if entry.is_symlink():
            target.symlink_to(entry.readlink())
        elif entry.name not in OWN and entry.is_dir():
            target.mkdir()
            mount("--rbind", entry, target)
            mount("-o", "remount,bind,ro", target)
    for name in OWN:
        (root / name).mkdir()
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "sysfs", root / "sys")
    mount_cgroups(trees, root / "sys/fs/cgroup")
    mount("--rbind", "/dev", root / "dev")
    for name in ("run", "opt"):
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / name)
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "tmp")
    overlay = f"lowerdir=/etc,upperdir={disk}/etc,workdir={disk}/etc-work"
    mount("-t", "overlay", "-o", overlay, "overlay", root / "etc")
    bind(disk / "var", root / "var")
    for source, target in spec["binds"]:
        bind(Path(source), root / target.lstrip("/"))
    return root


def mount_cgroups(trees: list[Hierarchy], at: Path) -> None:
    """The node's control groups; its own group is the root of what it sees."""
    if all(t.is_v2 for t in trees):
        mount("-t", "cgroup2", "cgroup2", at)
        return
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", at)
    for tree in trees:
        if tree.is_v2:  # beside v1 trees it carries no controllers; runtimes take it for a sign of v2
            continue
        options = f"none,{tree.controllers}" if tree.controllers.startswith("name=") else tree.controllers
        target = at / tree.mount.name
        target.mkdir()
        mount("-t", "cgroup", "-o", options, "cgroup", target)


def enter(root: Path) -> None:
    """Make it the root directory of this mount namespace and forget the machine's."""
    (root / ".machine").mkdir()
    os.chdir(root)
    subprocess.run(["pivot_root", ".", ".machine"], check=True)
    os.chdir("/")
    subprocess.run(["umount", "-l", "/.machine"], check=True)
    Path("/.machine").rmdir()
    mount("--make-rshared", "/")  # volumes that the kubelet mounts have to reach containerd


def join_cgroups(files: list[str]) -> None:
    """Enter the node's control groups and make them the root of what we see.

    Process 1 does it itself: its parent stays outside, and no process of the machine's is left in the node's group.
    """
    for file in files:
        Path(file).write_text("0")
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWCGROUP):
        raise OSError(ctypes.get_errno(), "no control group namespace")


def delegate_v2() -> None:
    """On v2 no process may live beside child groups: move ourselves to a leaf, then hand out the controllers."""
    top = Path("/sys/fs/cgroup")
    if not (top / "cgroup.subtree_control").exists():
        return
    (top / LEAF).mkdir(exist_ok=True)
    (top / LEAF / "cgroup.procs").write_text("0")
    for controller in (top / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (top / "cgroup.subtree_control").write_text(f"+{controller}")


def set_sysctls(values: dict[str, str]) -> None:
    """Settings of the node's network namespace; one that this kernel lacks is skipped."""
    for name, value in values.items():
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys", name).write_text(value)


def main() -> None:
    """Become the node that the specification on standard input describes."""
    spec = json.load(sys.stdin)
    join_cgroups(spec["cgroups"])
    socket.sethostname(spec["hostname"])
    enter(build_root(spec))
    delegate_v2()
    set_sysctls(spec["sysctls"])
    os.environ["PATH"] = spec["path"]
    for folder in ("/run/containerd", "/run/lock", "/var/log/pods", "/var/log/containers"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(spec["control"]) / "entered").touch()
    supervise.main(spec)


if __name__ == "__main__":
    main()
