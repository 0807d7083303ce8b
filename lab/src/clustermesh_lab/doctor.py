"""What this machine must have, checked before anything starts, with the exact remedy for what is missing."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .build import go_problem, missing
from .cgroups import hierarchies
from .command import attempt, run
from .errors import MissingRequirement
from .progress import step

# program -> Debian and Ubuntu package
PROGRAMS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "pivot_root": "util-linux",
    "mount": "mount",
    "nft": "nftables",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "curl": "curl",
    "ping": "iputils-ping",
}
BUILD_PROGRAMS = {"gcc": "gcc", "pkg-config": "pkg-config"}
MACHINE_PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "ssh": "openssh-client",
}
CALICO_PROGRAMS = {"ipset": "ipset"}  # Felix lists its old sets with it, in nftables mode too, and ends without it
CGROUP_V1_NEEDED = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is missing."""

    what: str
    remedy: str
    package: str = ""


def examine(*, machines: bool = True, calico: bool = True) -> list[Finding]:
    """Everything that is missing here."""
    found = []
    if os.geteuid():
        found.append(Finding("the lab makes namespaces, mounts and control groups, which needs root", "sudo lab ..."))
    wanted = dict(PROGRAMS)
    problem = go_problem()
    to_build = True if problem else bool(missing())
    if to_build:
        wanted |= BUILD_PROGRAMS
        if problem:
            found.append(Finding(problem, "https://go.dev/dl, or name ready-made programs in $CLUSTERMESH_LAB_ASSETS"))
    if machines:
        wanted |= MACHINE_PROGRAMS
    if calico:
        wanted |= CALICO_PROGRAMS
    for program, package in wanted.items():
        if not shutil.which(program):
            found.append(Finding(f"program {program!r}", f"apt install {package}", package))
    if to_build and shutil.which("pkg-config") and not attempt("pkg-config", "--exists", "libseccomp"):
        found.append(Finding("headers of libseccomp, for runc", "apt install libseccomp-dev", "libseccomp-dev"))
    return found + _kernel_findings()


def _kernel_findings() -> list[Finding]:
    found = []
    filesystems = Path("/proc/filesystems").read_text().split()
    if "overlay" not in filesystems and not attempt("modprobe", "overlay"):
        found.append(Finding("overlayfs in the kernel", "modprobe overlay"))
    trees = hierarchies()
    if not trees:
        found.append(Finding("control groups at /sys/fs/cgroup", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"))
    elif not all(t.is_v2 for t in trees):
        present = {c for t in trees for c in t.controllers.split(",")}
        found += [
            Finding(f"control group controller {c}", f"mount the cgroup v1 hierarchy {c}")
            for c in CGROUP_V1_NEEDED
            if c not in present
        ]
    if not Path("/proc/sys/net/bridge").exists() and not attempt("modprobe", "br_netfilter"):
        found.append(Finding("kernel module br_netfilter", "modprobe br_netfilter"))
    return found


def require(*, machines: bool, calico: bool = False) -> None:
    """Raise MissingRequirement naming all that is missing."""
    found = examine(machines=machines, calico=calico)
    if found:
        packages = sorted({f.package for f in found if f.package})
        rest = [f"{f.what} ({f.remedy})" for f in found if not f.package]
        lines = [f"this machine lacks {', '.join(f.what for f in found)}"]
        remedy = [f"apt install {' '.join(packages)} (or `lab setup`)"] if packages else []
        raise MissingRequirement(lines[0], do="; ".join([*remedy, *rest]))


def setup() -> list[Finding]:
    """Install what apt can; what is still missing after that."""
    packages = sorted({f.package for f in examine() if f.package})
    if packages:
        if not shutil.which("apt-get"):
            raise MissingRequirement("this is neither Debian nor Ubuntu", do=f"install {' '.join(packages)} yourself")
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        with step(f"installed {' '.join(packages)}"):
            run("apt-get", "update", env=env, timeout_s=600)
            run("apt-get", "install", "-y", "--no-install-recommends", *packages, env=env, timeout_s=1800)
    return examine()
