"""Programs of the lab, built from their Go modules.

Nothing is downloaded ready-made: components/versions.toml says what is built, the go.mod and go.sum beside it pin
every module. A build is kept in the cache under a hash of everything that determines it (sources, flags, Go version),
so a changed pin builds beside the old one and two checkouts can share the cache. A lock per component lets several
labs start at once: the second waits and finds the work done.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import tempfile
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import attempt, run
from .errors import LabError, MissingRequirement
from .places import cache, private_dir
from .progress import say, step

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).parent / "components"
ASSETS = ("CLUSTERMESH_LAB_ASSETS", "KUBEBUILDER_ASSETS")
KUBE_PARTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
NODE_COMPONENTS = ("kube", "containerd", "runc", "cni")
IMAGE_COMPONENTS = ("agnhost", "coredns", "pause")
EVERY_LAB = NODE_COMPONENTS + IMAGE_COMPONENTS
APT_OF_MODULE = {"libseccomp": "libseccomp-dev"}


@dataclass(frozen=True, slots=True)
class Program:
    """One Go program of a component; a package's test program where its name ends in .test."""

    name: str
    package: str
    tags: str = ""
    cgo: bool = False
    stamp: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Component:
    """Programs that come from one module graph at one version."""

    name: str
    version: str
    source: str
    programs: tuple[Program, ...]
    files: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    """Files taken from a module as they are: name, module, path in the module."""


@functools.cache
def components() -> dict[str, Component]:
    """What versions.toml pins, by name."""
    table: dict[str, dict[str, Any]] = tomllib.loads((SOURCES / "versions.toml").read_text())
    found = {}
    for name, entry in table.items():
        programs = tuple(
            Program(
                name=program,
                package=options["package"],
                tags=options.get("tags", ""),
                cgo=options.get("cgo", False),
                stamp=tuple(s.format(version=entry["version"]) for s in options.get("stamp", ())),
                needs=tuple(options.get("needs", ())),
            )
            for program, options in entry["programs"].items()
        )
        files = tuple((file, f["module"], f["path"]) for file, f in entry.get("files", {}).items())
        found[name] = Component(name, entry["version"], entry.get("source", name), programs, files)
    return found


def version(component: str) -> str:
    """The pinned version of a component."""
    return components()[component].version


def directory(component: str) -> Path:
    """The directory with the programs of a component, built now if they are not there yet."""
    wanted = components()[component]
    ready = cache() / "programs" / f"{component}-{wanted.version}-{_fingerprint(wanted)}"
    if ready.is_dir():
        return ready
    with locked(component):
        if not ready.is_dir():
            _build(wanted, ready)
    return ready


def program(name: str) -> list[str]:
    """How a program of the lab is started: its path, and the part's name where one file holds many.

    A ready-made one in $CLUSTERMESH_LAB_ASSETS (or $KUBEBUILDER_ASSETS) goes before building it.
    """
    ready = _ready_made(name)
    if ready:
        return [str(ready)]
    if name in KUBE_PARTS:
        return [str(directory("kube") / "kube"), name]
    for component in components().values():
        if any(p.name == name for p in component.programs):
            return [str(directory(component.name) / name)]
    raise LabError(f"{name!r} is no program of the lab", do=f"one of {', '.join(KUBE_PARTS)}")


def identity(name: str) -> str:
    """What tells one build of a program from another, for what is made from it."""
    path = Path(program(name)[0])
    facts = path.stat()
    return f"{path}:{facts.st_size}:{facts.st_mtime_ns}"


def missing(names: tuple[str, ...] = EVERY_LAB) -> list[str]:
    """Those of these components that `ensure` would have to build."""
    known = components()
    if unknown := [n for n in names if n not in known]:
        raise LabError(f"{unknown[0]!r} is no component of the lab", do=f"one of {', '.join(known)}", exit_code=2)
    return [
        c.name
        for c in map(known.__getitem__, names)
        if not _is_ready_made(c) and not (cache() / "programs" / f"{c.name}-{c.version}-{_fingerprint(c)}").is_dir()
    ]


def _ready_made(name: str) -> Path | None:
    for variable in ASSETS:
        folder = os.environ.get(variable)
        if folder and os.access(Path(folder) / name, os.X_OK):
            return Path(folder) / name
    return None


def _is_ready_made(component: Component) -> bool:
    names = KUBE_PARTS if component.name == "kube" else [p.name for p in component.programs]
    return not component.files and all(_ready_made(name) for name in names)


def ensure(names: tuple[str, ...] = EVERY_LAB) -> None:
    """Build what is not there yet. The first time takes minutes."""
    absent = missing(names)
    if absent:
        say(f"building {', '.join(absent)} from source; once, those of Kubernetes and Calico take some minutes")
    for name in absent:
        directory(name)


@functools.cache
def _go_version() -> str:
    try:
        return run("go", "env", "GOVERSION", env=os.environ | {"GOTOOLCHAIN": "local"}).strip()
    except LabError as error:
        raise MissingRequirement(
            "Go is not installed", do=f"install Go {go_needed()} or newer, `go` on PATH"
        ) from error


@functools.cache
def go_needed() -> str:
    """The Go version that the pinned modules demand."""
    demanded = [re.search(r"^go (\S+)", f.read_text(), re.MULTILINE) for f in SOURCES.glob("*/go.mod")]
    return max((found[1] for found in demanded if found), key=_as_numbers)


def go_problem() -> str:
    """Why the pinned modules cannot be built with this machine's Go; empty when they can."""
    try:
        found = _go_version().removeprefix("go")
    except MissingRequirement:
        return f"Go {go_needed()} or newer is not installed"
    return "" if _as_numbers(found) >= _as_numbers(go_needed()) else f"Go {go_needed()} is needed, this is {found}"


def _as_numbers(version_text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version_text.partition(" ")[0])]


def _fingerprint(component: Component) -> str:
    digest = hashlib.sha256(repr((component, _go_version())).encode())
    digest.update("".join(map(str, component.files)).encode())
    for file in sorted((SOURCES / component.source).rglob("*")):
        if file.name in ("go.mod", "go.sum") or file.suffix == ".go":
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def locked(component: str) -> Iterator[None]:
    """While something of the cache is made: one lab makes it, the others wait."""
    lock = private_dir(cache() / "locks") / f"{component}.lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another lab is building {component}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(component: Component, ready: Path) -> None:
    """Build into a directory beside the final one, then rename: a broken build leaves nothing that looks finished."""
    for need in {n for p in component.programs for n in p.needs}:
        if not attempt("pkg-config", "--exists", need):
            package = APT_OF_MODULE.get(need, need)
            raise MissingRequirement(
                f"{component.name} needs {need} to build", do=f"apt install {package} pkg-config (or `lab setup`)"
            )
    private_dir(ready.parent)
    for old in ready.parent.glob(f".{component.name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{component.name}-", dir=ready.parent) as work:
        out = Path(work) / "out"
        out.mkdir()
        source = Path(work) / "src"
        shutil.copytree(SOURCES / component.source, source)
        for item in component.programs:
            with step(f"built {item.name} {component.version}"):
                _compile(item, source, out)
        for name, module, path in component.files:
            _take(module, path, source, out / name)
        out.rename(ready)


def _compile(item: Program, source: Path, out: Path) -> None:
    flags = " ".join(["-s", "-w", *(f"-X {s}" for s in item.stamp)])
    env = os.environ | {"CGO_ENABLED": "1" if item.cgo else "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    tags = ["-tags", item.tags] if item.tags else []
    kind = ["go", "test", "-c", "-vet=off"] if item.name.endswith(".test") else ["go", "build"]
    line = [*kind, "-trimpath", *tags, "-ldflags", flags, "-o", str(out / item.name), item.package]
    run(*line, env=env, cwd=source, timeout_s=3600)


def _take(module: str, path: str, source: Path, out: Path) -> None:
    """A file of a pinned module, whose hash Go has checked."""
    env = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    folder = run("go", "list", "-m", "-f", "{{.Dir}}", module, env=env, cwd=source).strip()
    shutil.copyfile(Path(folder) / path, out)
