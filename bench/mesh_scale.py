"""``mesh-scale``: playbook mesh (access and peering) on many simulated clusters: a check run, a run, and another."""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.mesh_api import playbook, write_inventory
from bench.report import BenchError, Ratio, Table
from bench.simulated import SimulatedClusters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clusters", type=int, nargs=2, default=[10, 50], metavar="N", help="a small and a large mesh"
    )
    parser.add_argument("--forks", type=int, default=20, help="forks of ansible-playbook")


def run(options: argparse.Namespace) -> list[Ratio]:
    table = Table("clusters", "pairs", "check s", "run s", "again s", "writes", "writes again", "peak MiB")
    took: dict[str, list[float]] = {"plan": [], "noop": []}
    pairs, written = [], 0
    for count in options.clusters:
        names = [f"c{number:03d}" for number in range(count)]
        with TemporaryDirectory() as directory, SimulatedClusters(names, Path(directory)) as made:
            inventory, forks = Path(directory, "hosts.json"), f"--forks={options.forks}"
            write_inventory(inventory, {name: made.kubeconfig(name) for name in names})
            check_s = playbook(inventory, forks, "--check")
            if made.writes.total():
                raise BenchError(f"the check run wrote {made.writes.total()} times")
            run_s = playbook(inventory, forks)
            before = made.writes.total()
            again_s = playbook(inventory, forks)
            again = made.writes.total() - before
        took["plan"].append(check_s)
        took["noop"].append(again_s)
        pairs.append(count * (count - 1) // 2)
        written += again
        peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of any process, in any run so far
        table.row(count, pairs[-1], check_s, run_s, again_s, before, again, peak_mib)
    growth = pairs[1] / pairs[0]
    return [
        *(Ratio(f"mesh-scale/{name}-growth-per-pairs", t[1] / t[0] / growth, 1.0) for name, t in took.items()),
        Ratio("mesh-scale/noop-writes", written, 0),
        Ratio("mesh-scale/peak-MiB", peak_mib, 512),
    ]
