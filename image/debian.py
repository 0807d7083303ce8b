# SPDX-License-Identifier: Apache-2.0
"""Debian packages by a lock file: which ones, their versions and their SHA-256.

apt fetches them from the mirror this machine uses and checks Debian's signatures; it works on a state directory of its
own, so it needs no root and changes nothing of the machine.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from image.error import ImageError

WANTED = ("base-files", "libnftables1", "libpython3-stdlib", "python3-minimal")
# In the dependencies only for package scripts, which never run here, or for a terminal.
LEFT_OUT = frozenset(
    ("dpkg", "libacl1", "libmd0", "libpcre2-8-0", "libselinux1", "libzstd1", "mawk", "readline-common", "tar")
)
HEADER = "# Packages of the image; made by `make image-lock`. SHA-256, package, version.\n"


@dataclass(frozen=True, slots=True)
class Package:
    """A line of the lock file."""

    digest: str
    name: str
    version: str


class Apt:
    """apt with its state below ``cache``; lists are fetched at most once by an instance."""

    def __init__(self, cache: Path) -> None:
        self._state = cache / "apt"
        self._files = cache / "packages"
        for folder in (self._state / "lists/partial", self._state / "archives/partial", self._files):
            folder.mkdir(parents=True, exist_ok=True)
        (self._state / "status").write_text("")
        self._is_fresh = False

    def resolve(self) -> list[Package]:
        """WANTED with all dependencies, as the mirror has them now."""
        told = self._run("apt-get", "install", "--no-install-recommends", "--print-uris", "-qq", *WANTED)
        names = sorted({line.split()[1].split("_")[0] for line in told.splitlines() if "_" in line} - LEFT_OUT)
        shown = self._run("apt-cache", "show", "--no-all-versions", *names)
        fields = [dict(re.findall(r"^(\w+): (.*)$", part, re.MULTILINE)) for part in shown.strip().split("\n\n")]
        return sorted((Package(f["SHA256"], f["Package"], f["Version"]) for f in fields), key=lambda p: p.name)

    def fetch(self, package: Package) -> Path:
        """The package's file, from the cache or the mirror."""
        kept = self._files / f"{package.digest}.deb"
        if not kept.exists():
            try:
                self._run("apt-get", "download", "-qq", f"{package.name}={package.version}")
            except ImageError as error:
                raise ImageError(
                    f"{package.name} {package.version} of {lock_file().name} is not to be had: {error}; "
                    "run `make image-lock` to take the versions of today, or let apt use a mirror that keeps old ones"
                ) from error
            (found,) = self._files.glob(f"{package.name}_*.deb")
            found.rename(kept)
        if (digest := sha256(kept.read_bytes()).hexdigest()) != package.digest:
            kept.unlink()
            raise ImageError(f"{package.name} {package.version} has SHA-256 {digest}, locked is {package.digest}")
        return kept

    def _run(self, program: str, *arguments: str) -> str:
        if not self._is_fresh:
            self._is_fresh = True
            self._run("apt-get", "update", "-qq")
        options = {
            "Dir::State": self._state,
            "Dir::State::status": self._state / "status",
            "Dir::Cache": self._state,
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "1",
        }
        line = [program, *(f"-o{key}={value}" for key, value in options.items()), *arguments]
        environment = os.environ | {"LC_ALL": "C"}
        try:
            done = subprocess.run(line, cwd=self._files, env=environment, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise ImageError(f"{program} is not there: the image is built on Debian or Ubuntu") from error
        if done.returncode:
            raise ImageError(f"{program} {arguments[0]}: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
        return done.stdout


def architecture() -> str:
    """Debian's name of this machine's architecture, which is OCI's too."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def lock_file() -> Path:
    """The lock file of this machine's architecture."""
    return Path(__file__).parent / f"packages-{architecture()}.lock"


def read_lock() -> list[Package]:
    """The locked packages."""
    try:
        lines = lock_file().read_text().splitlines()
    except FileNotFoundError as error:
        raise ImageError(f"there is no {lock_file().name} in image/: run `make image-lock`") from error
    return [Package(*line.split()) for line in lines if line and not line.startswith("#")]


def write_lock(packages: list[Package]) -> None:
    """Replaces the lock file."""
    lock_file().write_text(HEADER + "".join(f"{p.digest} {p.name} {p.version}\n" for p in packages))
