"""Container images without a registry.

An image of the lab is a directory in one layer, written as an OCI layout archive that containerd imports. It may carry
any name: test suites and manifests that name a public image run unchanged with imagePullPolicy IfNotPresent.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import platform
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .build import identity, program, version
from .command import run
from .containerd import sandbox_image
from .errors import LabError
from .places import cache, private_dir
from .progress import step

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYOUT = 2  # counted up when an image is made differently from the same programs
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# What tests and people run in a pod of the test image, taken from this machine.
TOOLS = ("sh", "curl", "ip", "ping", "sleep", "cat", "ls", "env", "grep", "tr", "head")
_LIBRARY = re.compile(r"(/\S+)")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a container of an image starts."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""


def agnhost_image() -> str:
    """Name of the test image: Kubernetes' own test server and client."""
    return f"registry.k8s.io/e2e-test-images/agnhost:{version('agnhost')}"


def coredns_image() -> str:
    """Name of the image of the cluster DNS."""
    return f"registry.k8s.io/coredns/coredns:{version('coredns')}"


@functools.cache
def base_images() -> tuple[Path, ...]:
    """Archives of the images every node has, made once."""
    return (
        _program_image(sandbox_image(), "pause", Settings(entrypoint=("/pause",))),
        _program_image(coredns_image(), "coredns", Settings(entrypoint=("/coredns",))),
        _program_image(agnhost_image(), "agnhost", Settings(entrypoint=("/agnhost",), cmd=("pause",)), tools=TOOLS),
    )


def write_image(out: Path, name: str, root: Path, settings: Settings = Settings()) -> Path:
    """Write a directory as an image archive of that name (NAME:TAG)."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9./_:-]*:[\w][\w.-]*", name):
        raise LabError(f"{name!r} is no image name", do="give it as NAME:TAG, for example lab.local/web:1")
    if not root.is_dir():
        raise LabError(f"{root} is no directory")
    layer = _layer(root)
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    options: dict[str, Any] = {"Env": [PATH_ENV, *settings.env], "WorkingDir": "/"}
    if settings.entrypoint:
        options["Entrypoint"] = list(settings.entrypoint)
    if settings.cmd:
        options["Cmd"] = list(settings.cmd)
    if settings.user:
        options["User"] = settings.user
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": options,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "clustermesh-lab"}],
    }
    _write_layout(out, name, architecture, json.dumps(config).encode(), gzip.compress(layer, 1, mtime=0))
    return out


def _layer(root: Path) -> bytes:
    """The directory as a tar: same content, same bytes."""

    def normal(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = 0
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in sorted(root.iterdir()):
            tar.add(item, arcname=item.name, filter=normal)
    return buffer.getvalue()


def _write_layout(out: Path, name: str, architecture: str, config: bytes, layer: bytes) -> None:
    media = "application/vnd.oci.image"
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, kind: str) -> dict[str, Any]:
        digest = sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"{media}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    body = {
        "schemaVersion": 2,
        "mediaType": f"{media}.manifest.v1+json",
        "config": blob(config, "config.v1+json"),
        "layers": [blob(layer, "layer.v1.tar+gzip")],
    }
    manifest = blob(json.dumps(body).encode(), "manifest.v1+json")
    manifest["platform"] = {"architecture": architecture, "os": "linux"}
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}
    manifest["annotations"] = names
    index = {"schemaVersion": 2, "mediaType": f"{media}.index.v1+json", "manifests": [manifest]}
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    with tarfile.open(beside, "w") as tar:

        def put(path: str, content: bytes) -> None:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))

        put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        put("index.json", json.dumps(index).encode())
        for digest, content in blobs.items():
            put(f"blobs/sha256/{digest}", content)
    beside.replace(out)


def _program_image(name: str, component: str, settings: Settings, tools: Sequence[str] = ()) -> Path:
    """An image of one program of the lab, and some of this machine's."""
    found = {t: path for t in tools if (path := shutil.which(t))}
    stamps = [(p, Path(p).stat().st_mtime_ns) for p in found.values()]
    key = sha256(repr((LAYOUT, name, identity(component), settings, stamps)).encode()).hexdigest()[:16]
    out = private_dir(cache() / "images") / f"{component}-{key}.tar"
    if out.exists():
        return out
    with tempfile.TemporaryDirectory() as work, step(f"made image {name}"):
        root = Path(work)
        for folder in ("tmp", "etc", "proc", "sys", "dev", "var/run"):
            (root / folder).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
        shutil.copy(program(component)[0], root / component)
        for tool, path in found.items():
            _add_tool(root, tool, Path(path))
        return write_image(out, name, root, settings)


def _add_tool(root: Path, name: str, path: Path) -> None:
    """Copy a program with the libraries it loads."""
    target = root / "bin" / name
    target.parent.mkdir(exist_ok=True)
    shutil.copy(path.resolve(), target)
    for library in _LIBRARY.findall(run("ldd", path.resolve())):
        source = Path(library.strip("()"))
        if source.is_file():
            copy = root / str(source).lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source.resolve(), copy)
