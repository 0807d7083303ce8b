"""containerd's configuration and its content, shared by all nodes of all labs.

Importing the test images on every node would cost seconds and hundreds of megabytes each. They are imported once into
a template in the cache; a node's store is that tree again by hard links (layers and blobs are never written after
their import), with its own copies of the databases only.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from .build import identity, program, version
from .command import attempt, run
from .errors import LabError
from .places import cache, private_dir
from .process import ProcessId, end, spawn
from .progress import step

if TYPE_CHECKING:
    from collections.abc import Sequence

SANDBOX_IMAGE = "registry.k8s.io/pause:{version}"
NAMESPACE = "k8s.io"
_COPIED = (".db", ".lock")  # written in place; everything else is shared


def sandbox_image() -> str:
    """Name of the image every pod's sandbox runs."""
    return SANDBOX_IMAGE.format(version=version("pause"))


def config(
    root: str = "/var/lib/containerd",
    state: str = "/run/containerd",
    runc: str = "runc",
    cni: Sequence[str] = ("/opt/cni/bin",),
) -> str:
    """config.toml: what a cluster's node has, less what a machine without privileges over rlimits refuses."""
    return f"""version = 3
root = '{root}'
state = '{state}'
imports = []

[grpc]
  address = '{state}/containerd.sock'

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{sandbox_image()}'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  ignore_deprecation_warnings = ['io.containerd.deprecation/cgroup-v1']
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = {list(cni)}
    conf_dir = '/etc/cni/net.d'
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = '{runc}'
        SystemdCgroup = false
"""


def template(images: Sequence[Path]) -> Path:
    """A containerd root in which these image archives are imported; made once."""
    key = sha256(repr((sorted(i.name for i in images), identity("containerd"), config())).encode())
    ready = cache() / "containerd" / key.hexdigest()[:16]
    if not ready.is_dir():
        private_dir(ready.parent)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=ready.parent) as work:
            with step(f"unpacked {len(images)} images for the nodes"):
                _import(Path(work), images)
            if not ready.is_dir():
                (Path(work) / "root").rename(ready)
    return ready


def populate(template_root: Path, target: Path) -> None:
    """Give a node the content of the template."""

    def link(source: str, to: str) -> str:
        if source.endswith(_COPIED):
            return shutil.copy2(source, to)
        try:
            os.link(source, to, follow_symlinks=False)
        except OSError:  # another file system
            return shutil.copy2(source, to, follow_symlinks=False)
        return to

    shutil.copytree(template_root, target, symlinks=True, copy_function=link, dirs_exist_ok=True)


def _import(work: Path, images: Sequence[Path]) -> None:
    state = work / "state"
    (work / "config.toml").write_text(config(str(work / "root"), str(state), program("runc")[0]))
    env = os.environ | {"PATH": f"{Path(program('containerd')[0]).parent}:{os.environ['PATH']}"}
    daemon = spawn([*program("containerd"), "--config", str(work / "config.toml")], log=work / "log", env=env)
    ctr = [*program("ctr"), "--address", str(state / "containerd.sock"), "--namespace", NAMESPACE]
    try:
        deadline = time.monotonic() + 30
        while not attempt(*ctr, "version"):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"containerd did not start: {(work / 'log').read_text()[-500:]}")
            time.sleep(0.1)
        for image in images:
            run(*ctr, "images", "import", image, timeout_s=300)
    finally:
        found = ProcessId.of(daemon.pid)
        end([found] if found else [])
        daemon.wait()
