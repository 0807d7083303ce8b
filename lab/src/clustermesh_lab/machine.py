"""Nodes that are machines too: systemd and sshd in the node's own network namespace.

What Ansible configures there (sysctls, links, routes, nftables, a systemd unit) acts on the very network stack whose
pods run beside it. The machine's disk is an overlay over a shared root file system and stays when its power is cut.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from .cgroups import Group
from .command import attempt, run
from .errors import LabError
from .places import private_dir, private_file
from .process import ProcessId, end, spawn_detached
from .rootfs import root_file_system

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .node import NodeSpec

SSH_PORT = 22
NSPAWN = Path("/run/systemd/nspawn")  # where systemd-nspawn notes what runs; it forgets nothing that is killed
BOOT_S = 120
_KNOWN_HOSTS_LOCK = threading.Lock()
SSHD_CONFIG = """PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
"""
# It may do to its own network namespace whatever an administrator of a real machine may.
CAPABILITIES = "CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_ADMIN,CAP_BPF,CAP_PERFMON"


class SshKeys:
    """The keys of one lab: one to log in with, one for each machine to be known by."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.identity = directory / "id_ed25519"
        self.known_hosts = directory / "known_hosts"

    def create(self) -> None:
        """Make the login key if there is none."""
        private_dir(self.directory)
        _ssh_key(self.identity)
        self.known_hosts.touch(mode=0o600)

    def public(self) -> str:
        """The line for authorized_keys."""
        return self.identity.with_suffix(".pub").read_text()

    def know(self, addresses: Sequence[str], host_key: str) -> None:
        """Record a machine's host key under its addresses."""
        with _KNOWN_HOSTS_LOCK:  # clusters start side by side
            kept = [line for line in self.known_hosts.read_text().splitlines() if line.split()[0] not in addresses]
            added = [f"{a} {host_key.strip()}" for a in addresses]
            private_file(self.known_hosts, "\n".join([*kept, *added]) + "\n")

    def options(self) -> list[str]:
        """Options of ssh: this key and these hosts, nothing of the user's own."""
        return [
            *("-F", "none"),
            *("-o", f"UserKnownHostsFile={self.known_hosts}"),
            *("-o", "StrictHostKeyChecking=yes"),
            *("-o", "IdentitiesOnly=yes"),
            *("-o", "LogLevel=ERROR"),
        ]


class LabMachine:
    """The machine side of one node."""

    def __init__(self, spec: NodeSpec, keys: SshKeys, unique: str) -> None:
        self.spec = spec
        self.keys = keys
        self.address = spec.addresses[0]
        self.group = Group(f"clustermesh-lab/{spec.lab}/{spec.cluster.name}.{spec.name}.machine")
        self._unique = unique
        self._disk = spec.disk / "machine"
        self._root = self._disk / "root"
        self._pid_file = spec.control.parent / f"{spec.control.name}.machine.pid"
        self._label = f"{spec.cluster.name}/{spec.name}"

    def is_on(self) -> bool:
        """Whether it runs."""
        return ProcessId.read(self._pid_file) is not None

    def start(self) -> None:
        """Boot it; returns at once."""
        if self.is_on():
            return
        self._prepare()
        flags = ["--quiet", "--register=no", "--keep-unit", "--console=pipe", "--boot", "--link-journal=no"]
        line: list[str] = [
            *("systemd-nspawn", *flags, f"--directory={self._root}", f"--machine={self._unique}"),
            f"--hostname={self.spec.name}",
            f"--network-namespace-path={self.spec.netns}",
            f"--capability={CAPABILITIES}",
            "--bind=/dev/net/tun",
        ]
        env = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
        log = self._disk / "console.log"
        spawn_detached(line, log=log, env=env, cgroup_files=self.group.create()).write(self._pid_file)

    def wait_ssh(self, timeout_s: float = BOOT_S) -> None:
        """Until sshd greets."""
        deadline = time.monotonic() + timeout_s
        while not self._greets():
            if time.monotonic() > deadline or not self.is_on():
                words = (self._disk / "console.log").read_text(errors="replace").splitlines()[-3:]
                raise LabError(f"machine {self._label} does not answer ssh: {' | '.join(words)}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Cut its power."""
        found = ProcessId.read(self._pid_file)
        if found:
            end([found], grace_s=0)
        self.group.kill()
        self.group.remove()
        self._pid_file.unlink(missing_ok=True)
        if self._root.is_mount():
            facts = self._root.stat()
            (NSPAWN / f"locks/inode-{facts.st_dev}:{facts.st_ino}").unlink(missing_ok=True)
            attempt("umount", "-l", self._root)
        for folder in (f"propagate/{self._unique}", "propagate", "locks", ""):
            with suppress(OSError):
                (NSPAWN / folder).rmdir()

    def ssh_command(self, argv: Sequence[str] = ()) -> list[str]:
        """The command line that logs in as root, or runs `argv` there."""
        return ["ssh", "-i", str(self.keys.identity), *self.keys.options(), f"root@{self.address}", *argv]

    def _greets(self) -> bool:
        try:
            with socket.create_connection((self.address, SSH_PORT), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _prepare(self) -> None:
        """Its overlay, with what makes it this machine: name, keys, addresses."""
        upper = self._disk / "upper"
        for folder in (self._disk, upper, self._disk / "work", self._root):
            folder.mkdir(parents=True, exist_ok=True)
        upper.chmod(0o755)
        for inner in ("etc/ssh/sshd_config.d", "root/.ssh"):
            (upper / inner).mkdir(parents=True, exist_ok=True)
        (upper / "root").chmod(0o700)
        private_dir(upper / "root/.ssh")
        host_key = upper / "etc/ssh/ssh_host_ed25519_key"
        _ssh_key(host_key)
        self.keys.know(self.spec.addresses, host_key.with_suffix(".pub").read_text())
        private_file(upper / "root/.ssh/authorized_keys", self.keys.public())
        (upper / "etc/ssh/sshd_config.d/lab.conf").write_text(SSHD_CONFIG)
        (upper / "etc/hostname").write_text(f"{self.spec.name}\n")
        names = "".join(f"{a} {self.spec.name}\n" for a in self.spec.addresses)
        (upper / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{names}")
        if not self._root.is_mount():
            options = f"lowerdir={root_file_system()},upperdir={upper},workdir={self._disk / 'work'}"
            run("mount", "-t", "overlay", "-o", options, "overlay", self._root)


def _ssh_key(path: Path) -> None:
    if path.exists():
        return
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    path.with_suffix(".pub").write_bytes(public + b"\n")
    private_file(path, private)
