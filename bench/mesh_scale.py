"""``mesh-scale``: playbook mesh (access and peering) on many simulated clusters: a check run, a run, and another."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.mesh_api import ROOT
from bench.report import BenchError, Ratio, Table
from bench.simulated import SimulatedClusters

_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clusters", type=int, nargs=2, default=[10, 50], metavar="N", help="a small and a large mesh"
    )
    parser.add_argument("--forks", type=int, default=20, help="forks of ansible-playbook")


def run(options: argparse.Namespace) -> list[Ratio]:
    table = Table("clusters", "pairs", "check s", "run s", "again s", "writes", "writes again", "peak MiB")
    took: dict[str, list[float]] = {"plan": [], "noop": []}
    pairs, written, most = [], 0, 0.0
    for count in options.clusters:
        names = [f"c{number:03d}" for number in range(count)]
        with TemporaryDirectory() as directory, SimulatedClusters(names, Path(directory)) as made:
            inventory = _inventory(made, names, Path(directory))
            check_s, _ = _playbook(inventory, options.forks, "--check")
            if made.writes.total():
                raise BenchError(f"the check run wrote {made.writes.total()} times")
            run_s, _ = _playbook(inventory, options.forks)
            before = made.writes.total()
            again_s, peak = _playbook(inventory, options.forks)
            again = made.writes.total() - before
        took["plan"].append(check_s)
        took["noop"].append(again_s)
        pairs.append(count * (count - 1) // 2)
        written, most = written + again, max(most, peak)
        table.row(count, pairs[-1], check_s, run_s, again_s, before, again, peak / _MIB)
    growth = pairs[1] / pairs[0]
    return [
        *(Ratio(f"mesh-scale/{name}-growth-per-pairs", t[1] / t[0] / growth, 1.0) for name, t in took.items()),
        Ratio("mesh-scale/noop-writes", written, 0),
        Ratio("mesh-scale/peak-MiB", most / _MIB, 512),
    ]


def _inventory(made: SimulatedClusters, names: list[str], directory: Path) -> Path:
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {name: {"mesh_kubeconfig": str(made.kubeconfig(name))} for name in names}
    file = directory / "hosts.json"
    file.write_text(json.dumps({"mesh_clusters": {"hosts": hosts, "vars": shared}}))
    return file


def _playbook(inventory: Path, forks: int, *flags: str) -> tuple[float, float]:
    """Seconds, and the most bytes that any of its processes held."""
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), "mesh.yml"]
    command += ["--tags", "peering", "-f", str(forks), *flags]
    with (inventory.parent / "output").open("w+b") as output:
        started = time.monotonic()
        child = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"ANSIBLE_NOCOLOR": "1"}, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - started
        if child.returncode != 0:
            output.seek(0)
            raise BenchError(f"{' '.join(command)}: {output.read()[-2000:].decode(errors='replace')}")
    return took, usage.ru_maxrss * 1024
