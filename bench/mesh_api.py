"""Clusters to be meshed by playbook mesh (access and peering) or by hand, for ``mesh-cold`` and its like."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from clustermesh_lab import ControlPlane
from clustermesh_lab.audit import is_write, requests
from clustermesh_lab.build import program

from bench.report import BenchError

ROOT: Final = Path(__file__).parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark of the API part."""
    parser.add_argument("--clusters", type=int, nargs="+", default=[2, 3, 5], help="sizes of the mesh")
    parser.add_argument("--rounds", type=int, default=1, help="rounds for each size")


class Site:
    """Control planes without nodes, as many as asked for."""

    def __init__(self, planes: dict[str, ControlPlane], directory: Path) -> None:
        self.names = list(planes)
        self._planes = planes
        self._inventory = directory / "hosts.json"

    def playbook(self, names: Sequence[str], *, added: str | None = None) -> float:
        """Seconds for ``ansible-playbook mesh.yml`` on these clusters, or to let one join."""
        write_inventory(self._inventory, {name: self._planes[name].kubeconfig for name in names})
        return playbook(self._inventory, *([] if added is None else ["--limit", added]))

    def by_hand(self, names: Sequence[str], *, added: str | None = None) -> float:
        """Seconds for the documented steps with kubectl."""
        with TemporaryDirectory() as directory:
            for name in names:
                Path(directory, f"{name}.admin").write_bytes(self._planes[name].kubeconfig.read_bytes())
            kubectl = Path(directory, "kubectl")
            kubectl.write_text(f'#!/bin/sh\nexec {" ".join(program("kubectl"))} "$@"\n')
            kubectl.chmod(0o755)
            if added is not None:  # the others have theirs already
                for name in names:
                    Path(directory, f"{name}.peers").write_bytes(self._planes[name].kubeconfig.read_bytes())
            environment = os.environ | {
                "PATH": f"{directory}:{os.environ['PATH']}",
                "KUBECACHEDIR": f"{directory}/cache",
                "ADDED": added or "",
            }
            script = [str(ROOT / "bench" / "mesh_by_hand.sh"), directory, str(ROOT / "roles/mesh_crds/files"), *names]
            return _timed(script, environment)

    def writes(self) -> int:
        """Write requests of the administrator so far, in all clusters; questions, which store nothing, aside."""
        return sum(is_write(event) for plane in self._planes.values() for event in requests(plane.audit_log))

    def check(self, names: Sequence[str]) -> None:
        """Raises BenchError unless these clusters are peers of each other, and of no other."""
        for name in names:
            command = [*program("kubectl"), f"--kubeconfig={self._planes[name].kubeconfig}", "get", "-o", "name"]
            command.append("remoteclusterconfigurations.clustermesh.io")
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            if {line.rpartition("/")[2] for line in listed} != set(names) - {name}:
                raise BenchError(f"{name} has the peers {listed}, not all of {', '.join(names)}")


def write_inventory(file: Path, kubeconfigs: Mapping[str, Path]) -> None:
    """Clusters alone, without nodes."""
    hosts = {name: {"mesh_kubeconfig": str(kubeconfig)} for name, kubeconfig in kubeconfigs.items()}
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    file.write_text(json.dumps({"mesh_clusters": {"hosts": hosts, "vars": shared}}))


def playbook(inventory: Path, *flags: str) -> float:
    """Seconds for the part of playbook mesh that makes access and peering."""
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), "mesh.yml"]
    return _timed([*command, "--tags", "peering", *flags], os.environ | {"ANSIBLE_NOCOLOR": "1"})


def _timed(command: list[str], environment: dict[str, str]) -> float:
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    took = time.monotonic() - started
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
    return took


@contextmanager
def site(count: int) -> Iterator[Site]:
    """So many new clusters."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        names = [f"c{number}" for number in range(1, count + 1)]
        planes = {name: stack.enter_context(ControlPlane(name=name, controller_manager=True)) for name in names}
        yield Site(planes, directory)
