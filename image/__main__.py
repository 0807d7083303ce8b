# SPDX-License-Identifier: Apache-2.0
"""``python -m image``: builds the archive; ``--lock`` takes the packages of today into the lock file."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from image import debian, oci
from image.error import ImageError
from image.tree import Tree, checked_wheels

ROOT = Path(__file__).parents[1]
WHEELS = ROOT / "roles/mesh_daemon/files/wheels"
NAME = "clustermesh.local/clustermeshd"
USER = 65532
URL = "https://github.com/clustermesh/clustermesh"
PROGRAMS = {"clustermeshd": "clustermeshd.cli.daemon", "clustermesh": "clustermeshd.cli.people"}


def main() -> int:
    """Entry point; exit status 1 with one line when the image cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m image", description="Build the daemon's image as an OCI archive.")
    parser.add_argument("--lock", action="store_true", help="only renew the lock file of the packages")
    parser.add_argument("--name", help=f"NAME:TAG of the image (default: {NAME}:VERSION)")
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="folder of the wheels and SHA256SUMS")
    parser.add_argument("--output", type=Path, default=ROOT / "build/clustermeshd-image.tar", help="the archive")
    parser.add_argument("--cache", type=Path, default=_cache(), help="folder for downloaded packages")
    arguments = parser.parse_args()
    try:
        apt = debian.Apt(arguments.cache)
        if arguments.lock:
            debian.write_lock(apt.resolve())
            return 0
        name, digest = build(apt, arguments.wheels, arguments.output, arguments.name)
    except ImageError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.output}\n{name}\n{digest}")
    return 0


def build(apt: debian.Apt, wheels: Path, out: Path, name: str | None = None) -> tuple[str, str]:
    """Writes the archive; returns name and digest of the image."""
    packages, epoch = debian.read_lock(), _epoch()
    files = checked_wheels(wheels)
    version = next(f.name.split("-")[1] for f in files if f.name.startswith("clustermeshd-"))
    name = name or f"{NAME}:{version}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9./_:-]*:[\w][\w.-]*", name):
        raise ImageError(f"{name!r} is no image name: give NAME:TAG in lower case")
    _check_python(files, packages)
    revision = _git("rev-parse", "HEAD")
    tree = Tree()
    for package in packages:
        tree.add_deb(apt.fetch(package))
    for wheel in files:
        tree.add_wheel(wheel)
    _add_own(tree, packages)
    settings = {
        "Entrypoint": ["/usr/bin/clustermeshd"],
        "Cmd": ["--help"],
        "Env": ["PATH=/usr/bin", "LANG=C.UTF-8"],
        "User": f"{USER}:{USER}",
        "WorkingDir": "/",
        "Labels": {
            "org.opencontainers.image.title": "clustermeshd",
            "org.opencontainers.image.description": "Cluster mesh for Kubernetes: controller and node agent",
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.source": URL,
            "org.opencontainers.image.licenses": "Apache-2.0",
            **({"org.opencontainers.image.revision": revision} if revision else {}),
        },
    }
    layer = tree.tar(epoch)
    digest = oci.write_archive(
        out, name=name, architecture=debian.architecture(), layer=layer, settings=settings, epoch=epoch
    )
    return name, digest


def _add_own(tree: Tree, packages: list[debian.Package]) -> None:
    """Users, programs and the list of packages, in which scanners of images look."""
    tree.write("etc/passwd", f"root:x:0:0:root:/:/sbin/nologin\nclustermesh:x:{USER}:{USER}::/:/sbin/nologin\n")
    tree.write("etc/group", f"root:x:0:\nclustermesh:x:{USER}:\n")
    tree.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    for program, module in PROGRAMS.items():
        text = f"#!/usr/bin/python3\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n"
        tree.write(f"usr/bin/{program}", text, 0o755)
    for package in packages:
        fields = {
            "Package": package.name,
            "Status": "install ok installed",
            "Architecture": debian.architecture(),
            "Version": package.version,
        }
        text = "".join(f"{key}: {value}\n" for key, value in fields.items())
        tree.write(f"var/lib/dpkg/status.d/{package.name}", text)


def _check_python(wheels: list[Path], packages: list[debian.Package]) -> None:
    """Refuses compiled wheels of another Python than the image's."""
    found = next((p.name for p in packages if re.fullmatch(r"python3\.\d+-minimal", p.name)), "")
    wanted = "cp" + "".join(re.findall(r"\d+", found))
    other = [w.name for w in wheels if (tag := w.stem.split("-")[-3]).startswith("cp") and tag != wanted]
    if other:
        raise ImageError(
            f"{other[0]} is not for the image's {found.removesuffix('-minimal')}: "
            "run `make wheels PYTHON=` with that one, or `make image-lock` on a distribution that has the other"
        )


def _epoch() -> int:
    """The image's time: SOURCE_DATE_EPOCH, else that of the last commit."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or 0)


def _git(*arguments: str) -> str:
    """What git says of this checkout; nothing outside of one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clustermesh/image"


if __name__ == "__main__":
    sys.exit(main())
