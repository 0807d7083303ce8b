"""``program-nodes``: remote nodes from their facts into an empty kernel.

Ours: a whole round of the agent's engine, up to where the kernel is complete; that the round then looks again is
printed and does not count. The references get their commands ready-made in files: the same
objects (equality of both kernels is checked), and one on-link gateway route per node without nftables. Time is wall
time of the whole job; for ours the share of each step is printed too. Against on-link routes like is set beside like:
both write what leads to the remote nodes, from ready objects and from ready commands, ours without its nftables part.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from clustermeshd.agent.engine import Engine, Inputs
from clustermeshd.kernel.state import Marked
from clustermeshd.kube.objects import RemoteNode

from bench import facts, reference, site
from bench.report import BenchError, Ratio, Table, in_turn, ratio_of

T = TypeVar("T")
_STEPS = ("observe", "plan", "apply", "look again")
_NFT = "of it nft"
_FULL, _TENTH = 10_000, 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="rounds at 10,000 nodes (three times as many below)")


def run(options: argparse.Namespace) -> list[Ratio]:
    table = Table("nodes", "ours ms", *_STEPS, _NFT, "ip batch ms", "ratio", "onlink ms", "times")
    medians: dict[int, dict[str, list[float]]] = {}
    for count in (100, _TENTH, _FULL):
        rounds = options.rounds * (1 if count == _FULL else 3)
        medians[count] = _measure(count, rounds, table)
    full, growth = medians[_FULL], _median(medians[_FULL]) / _median(medians[_TENTH])
    return [
        Ratio("program-nodes", ratio_of(full, "ours", "batch"), 1.0),
        Ratio("program-nodes/onlink-times", ratio_of(full, "onlink", "routes"), 6, at_least=True),
        Ratio("program-nodes/growth", growth, 12),
    ]


class Start:
    """An agent's engine with its first complete inputs; to be made and used in the node's namespace."""

    def __init__(self, remotes: Sequence[RemoteNode]) -> None:
        self._inputs = Inputs(facts.local(), tuple(remotes), 1)
        self._engine = Engine(reference.SETTINGS)
        self._spans: dict[str, tuple[float, float]] = {}
        kernel = self._engine.kernel
        kernel.observe = self._timed("observe", kernel.observe)
        kernel.apply = self._timed("apply", kernel.apply)
        kernel._table.change = self._timed(_NFT, kernel._table.change)  # noqa: SLF001

    def run(self) -> dict[str, float]:
        """One whole round: seconds by step. The kernel is complete after ``apply``; then the round looks again."""
        started = time.perf_counter()
        outcome = self._engine.whole(self._inputs)
        ended = time.perf_counter()
        if outcome.failures or outcome.summary.problems or len(outcome.written) != 1:
            raise BenchError(f"not programmed at once: {(*outcome.failures, *outcome.summary.problems)[:3]}")
        (_, observed), (planned, applied) = self._spans["observe"], self._spans["apply"]
        marks = (started, observed, planned, applied, ended)
        nft_began, nft_ended = self._spans[_NFT]
        return {step: marks[i + 1] - marks[i] for i, step in enumerate(_STEPS)} | {_NFT: nft_ended - nft_began}

    def marked(self) -> Marked:
        return self._engine.kernel.observe().marked

    def close(self) -> None:
        self._engine.close()

    def _timed(self, step: str, function: Callable[..., T]) -> Callable[..., T]:
        def timed(*arguments: object) -> T:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self._spans.setdefault(step, (started, time.perf_counter()))  # the first call counts

        return timed


def _measure(count: int, rounds: int, table: Table) -> dict[str, list[float]]:
    remotes = facts.remotes(count)
    steps: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as directory:
        objects, onlink = _prepare(remotes, Path(directory))

        def ours() -> float:
            with site.node() as space, contextlib.closing(space.call(lambda: Start(remotes))) as start:
                steps.append(space.call(start.run))
            return sum(steps[-1][name] for name in _STEPS[:-1])

        def by(writer: reference.Objects | reference.OnlinkRoutes) -> float:
            with site.node() as space:
                started = time.perf_counter()
                writer.write(space)
                return time.perf_counter() - started

        ways = {"ours": ours, "batch": lambda: by(objects), "onlink": lambda: by(onlink)}
        samples = in_turn(rounds, ways)
    samples["routes"] = [step["apply"] - step[_NFT] for step in steps]
    shares = [1000 * statistics.median(step[name] for step in steps) for name in (*_STEPS, _NFT)]
    batch, far = (1000 * statistics.median(samples[name]) for name in ("batch", "onlink"))
    table.row(
        count,
        1000 * _median(samples),
        *shares,
        batch,
        ratio_of(samples, "ours", "batch"),
        far,
        ratio_of(samples, "onlink", "routes"),
    )
    return samples


def _prepare(remotes: Sequence[RemoteNode], directory: Path) -> tuple[reference.Objects, reference.OnlinkRoutes]:
    """Program ours once, write down what came of it, and see that the reference makes the very same."""
    with site.node() as space, contextlib.closing(space.call(lambda: Start(remotes))) as start:
        space.call(start.run)
        marked = space.call(start.marked)
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
