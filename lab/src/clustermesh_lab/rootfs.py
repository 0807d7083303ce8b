"""The root file system of machines: this machine's own distribution, by debootstrap.

It is made once and never written again: every machine sees it through an overlay of its own. Packages come from the
mirror this machine's apt uses.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

from .build import locked
from .command import attempt, run
from .errors import MissingRequirement
from .places import cache, private_dir
from .progress import step

PACKAGES = (
    "ca-certificates",
    "conntrack",
    "dbus",
    "iproute2",
    "iputils-ping",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-venv",
    "systemd",
    "systemd-sysv",
    "tcpdump",
)
# Units that would fight the lab over the node's network or wait for a terminal that is not there.
MASKED = (
    "console-getty.service",
    "getty.target",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
)
DISTRIBUTIONS = {"debian": "main", "ubuntu": "main,universe"}


def root_file_system() -> Path:
    """The directory, made now if it is not there yet (a minute)."""
    distribution, suite = _distribution()
    key = sha256(repr((distribution, suite, platform.machine(), PACKAGES, MASKED)).encode()).hexdigest()[:16]
    ready = cache() / "rootfs" / f"{suite}-{key}"
    if ready.is_dir():
        return ready
    with locked("rootfs"):
        if not ready.is_dir():
            private_dir(ready.parent)
            with step(f"made the root file system of machines ({distribution} {suite})"):
                _make(ready, suite, DISTRIBUTIONS[distribution])
    return ready


def _distribution() -> tuple[str, str]:
    facts = platform.freedesktop_os_release()
    name, suite = facts.get("ID", ""), facts.get("VERSION_CODENAME", "")
    if name not in DISTRIBUTIONS or not suite:
        found = facts.get("PRETTY_NAME", "unknown")
        raise MissingRequirement(f"machines need Debian or Ubuntu, this is {found}", do="run without --machines")
    return name, suite


def _mirror(suite: str) -> list[str]:
    """Where this machine's apt gets that suite from; debootstrap's own default when apt does not say."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages")
    found = [line.split()[0] for line in targets.splitlines() if line.split()[1:] == [suite]]
    return sorted(found, key=len)[:1]


def _make(ready: Path, suite: str, components: str) -> None:
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=ready.parent))
    try:
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}", f"--components={components}"]
        run("debootstrap", *options, suite, str(work / "root"), *_mirror(suite), timeout_s=1800)
        _clean(work / "root")
        (work / "root").rename(ready)
    finally:
        attempt("umount", "-l", work / "root/proc")
        attempt("umount", "-l", work / "root/sys")
        shutil.rmtree(work, ignore_errors=True)


def _clean(root: Path) -> None:
    """What must be a machine's own goes; what would disturb is masked."""
    for pattern in ("etc/ssh/ssh_host_*", "var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "var/log/*.log"):
        for file in root.glob(pattern):
            file.unlink()
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")
    units = root / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
