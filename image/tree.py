# SPDX-License-Identifier: Apache-2.0
"""The image's files: unpacked in memory, written as a tar that is the same for the same input."""

from __future__ import annotations

import io
import posixpath
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from image.error import ImageError

MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")  # links into /usr, as Debian has them
SITE = "usr/lib/python3/dist-packages"
UNUSED = ("usr/share/doc", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man", "var/log")
COPYRIGHT = "copyright"  # the licences stay


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (``content``), a link (``target``) or a directory (neither), owned by root."""

    mode: int
    content: bytes | None = None
    target: str = ""


class Tree:
    """Entries by path without a leading slash."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {name: Entry(0o777, target=f"usr/{name}") for name in MERGED}

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Adds a text file."""
        self._put(path, Entry(mode, text.encode()))

    def add_deb(self, package: Path) -> None:
        """Unpacks a Debian package; its scripts do not run."""
        done = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=False)
        if done.returncode:
            raise ImageError(f"{package}: {done.stderr.decode(errors='replace').strip()}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            for member in archive:
                self._add_member(archive, member)

    def _add_member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _merged(posixpath.normpath(member.name).lstrip("/"))
        if path in (".", *(f"usr/{name}" for name in MERGED if member.issym())) or _is_unused(path):
            return
        if member.isdir():
            self.entries.setdefault(path, Entry(member.mode))
        elif member.issym():
            self._put(path, Entry(0o777, target=member.linkname))
        elif member.islnk():
            self._put(path, self.entries[_merged(posixpath.normpath(member.linkname))])
        elif member.isfile() and (file := archive.extractfile(member)):
            self._put(path, Entry(member.mode & 0o755, file.read()))  # nothing is set-user-id
        else:
            raise ImageError(f"{member.name} is neither file nor link nor directory")

    def add_wheel(self, wheel: Path) -> None:
        """Unpacks a wheel beside the standard library; its scripts are left out."""
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                top, _, rest = member.filename.partition("/")
                if member.is_dir() or (top.endswith(".data") and rest.startswith("scripts/")):
                    continue
                if top.endswith(".data"):
                    raise ImageError(f"{wheel.name} holds {member.filename}, which the image has no place for")
                self._put(f"{SITE}/{member.filename}", Entry(0o644, archive.read(member)))

    def _put(self, path: str, entry: Entry) -> None:
        if self.entries.setdefault(path, entry) != entry:
            raise ImageError(f"/{path} comes from two packages with different content")

    def tar(self, mtime: int) -> bytes:
        """All entries and the directories above them, sorted, with one time."""
        entries = dict(self.entries)
        for path in self.entries:
            while path := posixpath.dirname(path):
                entries.setdefault(path, Entry(0o755))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, entry in sorted(entries.items()):
                info = tarfile.TarInfo(path)
                info.mode, info.mtime = entry.mode, mtime
                info.size = len(entry.content or b"")
                if entry.content is None:
                    info.type = tarfile.SYMTYPE if entry.target else tarfile.DIRTYPE
                    info.linkname = entry.target
                archive.addfile(info, io.BytesIO(entry.content or b""))
        return buffer.getvalue()


def _merged(path: str) -> str:
    """The path below /usr of what a package puts into a folder that is a link."""
    return f"usr/{path}" if path.partition("/")[0] in MERGED else path


def _is_unused(path: str) -> bool:
    return any(path.startswith(folder) for folder in UNUSED) and posixpath.basename(path) != COPYRIGHT


def checked_wheels(folder: Path) -> list[Path]:
    """The wheels that SHA256SUMS names, each with the digest it names, and nothing else."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise ImageError(f"there is no {sums}: run `make wheels`")
    expected = {name: digest for digest, name in (line.split() for line in sums.read_text().splitlines())}
    found = {wheel.name: sha256(wheel.read_bytes()).hexdigest() for wheel in folder.glob("*.whl")}
    if wrong := sorted(dict(expected.items() ^ found.items())):
        raise ImageError(f"{', '.join(wrong)} in {folder} is not as SHA256SUMS says: run `make wheels`")
    return [folder / name for name in sorted(expected)]
