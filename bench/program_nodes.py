"""``program-nodes``: remote nodes from their facts into an empty kernel.

Ours: read the empty kernel, plan, compare, write. The references get their commands ready-made in files: the same
objects (equality of both kernels is checked), and one on-link gateway route per node without nftables. Time is wall
time of the whole job; for ours the share of each step is printed too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from clustermeshd.kernel.dataplane import Kernel
from clustermeshd.kernel.state import Marked
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay import desired

from bench import facts, reference, site
from bench.report import BenchError, Ratio, Table, in_turn, ratio_of

_STEPS = ("observe", "plan", "diff", "apply")
_FULL, _TENTH = 10_000, 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="rounds at 10,000 nodes (three times as many below)")


def run(options: argparse.Namespace) -> list[Ratio]:
    table = Table("nodes", "ours ms", *_STEPS, "ip batch ms", "ratio", "onlink ms", "times")
    medians: dict[int, dict[str, list[float]]] = {}
    for count in (100, _TENTH, _FULL):
        rounds = options.rounds * (1 if count == _FULL else 3)
        medians[count] = _measure(count, rounds, table)
    full, growth = medians[_FULL], _median(medians[_FULL]) / _median(medians[_TENTH])
    return [
        Ratio("program-nodes", ratio_of(full, "ours", "batch"), 1.0),
        Ratio("program-nodes/onlink-times", ratio_of(full, "onlink", "ours"), 6, at_least=True),
        Ratio("program-nodes/growth", growth, 12),
    ]


def program(remotes: Sequence[RemoteNode], kernel: Kernel) -> tuple[Marked, dict[str, float]]:
    """What the agent does with its first complete inputs; the objects wanted, and seconds by step."""
    marks = [time.perf_counter()]
    actual = kernel.observe()
    marks.append(time.perf_counter())
    wanted = desired(facts.local(), remotes, reference.SETTINGS, actual)
    marks.append(time.perf_counter())
    changes = diff(wanted.marked, actual.marked)
    marks.append(time.perf_counter())
    report = kernel.apply(changes)
    marks.append(time.perf_counter())
    if report.failures or wanted.problems:
        raise BenchError(f"not programmed: {(*report.failures, *wanted.problems)[:3]}")
    return wanted.marked, {step: marks[i + 1] - marks[i] for i, step in enumerate(_STEPS)}


def _measure(count: int, rounds: int, table: Table) -> dict[str, list[float]]:
    remotes = facts.remotes(count)
    steps: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as directory:
        objects, onlink = _prepare(remotes, Path(directory))

        def ours() -> float:
            with site.node() as space:
                kernel = space.call(lambda: Kernel(reference.SETTINGS))
                try:
                    steps.append(space.call(lambda: program(remotes, kernel))[1])
                finally:
                    kernel.close()
                return sum(steps[-1].values())

        def by(writer: reference.Objects | reference.OnlinkRoutes) -> float:
            with site.node() as space:
                started = time.perf_counter()
                writer.write(space)
                return time.perf_counter() - started

        ways = {"ours": ours, "batch": lambda: by(objects), "onlink": lambda: by(onlink)}
        samples = in_turn(rounds, ways)
    shares = [1000 * statistics.median(step[name] for step in steps) for name in _STEPS]
    batch, far = (1000 * statistics.median(samples[name]) for name in ("batch", "onlink"))
    table.row(
        count,
        1000 * _median(samples),
        *shares,
        batch,
        ratio_of(samples, "ours", "batch"),
        far,
        ratio_of(samples, "onlink", "ours"),
    )
    return samples


def _prepare(remotes: Sequence[RemoteNode], directory: Path) -> tuple[reference.Objects, reference.OnlinkRoutes]:
    """Program ours once, write down what came of it, and see that the reference makes the very same."""
    with site.node() as space:
        kernel = space.call(lambda: Kernel(reference.SETTINGS))
        try:
            marked, _ = space.call(lambda: program(remotes, kernel))
        finally:
            kernel.close()
        made = reference.dump(space)
    objects, onlink = reference.Objects(directory, marked, str(made["nft"])), reference.OnlinkRoutes(directory, marked)
    for kind in ("nexthops", "routes", "neighbours"):
        if len(made[kind]) != len(remotes):
            raise BenchError(f"{len(remotes)} remote nodes made {len(made[kind])} {kind}")
    with site.node() as space:
        objects.write(space)
        again = reference.dump(space)
    for kind, found in made.items():
        if again[kind] != found:
            raise BenchError(
                f"the reference makes other {kind} than we do: {str(again[kind])[:400]} / {str(found)[:400]}"
            )
    with site.node() as space:
        onlink.write(space)
        routes = space.ip_json("route", "show", "table", str(reference.SETTINGS.table))
    if len(routes) != len(remotes):
        raise BenchError(f"{len(remotes)} remote nodes made {len(routes)} on-link routes")
    return objects, onlink


def _median(samples: dict[str, list[float]]) -> float:
    return statistics.median(samples["ours"])
