"""``resync-idle``: what a reconcile costs that finds 10,000 remote nodes as they should be.

Ours is one whole round of the agent: read, plan, compare. The reference reads the same objects with ``ip -j``,
``bridge -j`` and ``nft -j`` into files, and neither parses nor compares. Both in CPU time, user and system.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from clustermeshd.agent.engine import Engine, Inputs, Pending

from bench import facts, reference, site
from bench.report import BenchError, Ratio, Table, in_turn, ratio_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=10_000, help="remote nodes")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each")


def run(options: argparse.Namespace) -> list[Ratio]:
    with site.node() as space, tempfile.TemporaryDirectory() as directory:
        agent = space.call(lambda: IdleAgent(options.nodes))
        try:
            before = reference.dump(space)
            dumps = _Dumps(space.name, Path(directory))
            samples = in_turn(options.rounds, {"ours": lambda: space.call(agent.round), "dumps": dumps.read})
            if reference.dump(space) != before or len(before["routes"]) != options.nodes:
                raise BenchError("the kernel is not as it was")
        finally:
            agent.close()
    table = Table("way", "CPU ms", "least", "most")
    for name, values in samples.items():
        table.row(name, *(1000 * figure for figure in (statistics.median(values), min(values), max(values))))
    for name, cpu_s in dumps.cpu_s.items():
        table.row(f"  {name}", 1000 * cpu_s / options.rounds, "", "")
    return [
        Ratio("resync-idle", ratio_of(samples, "ours", "dumps"), 0.5),
        Ratio("resync-idle/writes", agent.writes, 0),
    ]


class IdleAgent:
    """An agent's engine whose inputs never change; to be made and used in the node's namespace."""

    def __init__(self, count: int) -> None:
        self.writes = 0
        self._inputs = Inputs(facts.local(), facts.remotes(count), 1, pending=Pending(1, 1, []))
        self._engine = Engine(reference.SETTINGS)
        outcome = self._engine.whole(self._inputs)
        if outcome.failures or outcome.summary.problems:
            raise BenchError(f"not programmed: {(*outcome.failures, *outcome.summary.problems)[:3]}")

    def round(self) -> float:
        """CPU seconds of one whole round, all threads."""
        started = time.process_time()
        outcome = self._engine.whole(self._inputs)
        used_s = time.process_time() - started
        self.writes += len(outcome.written)
        return used_s

    def close(self) -> None:
        self._engine.close()


class _Dumps:
    """The reference: every kind of our objects, dumped by the programs that people use."""

    def __init__(self, space: str, directory: Path) -> None:
        device, table = reference.SETTINGS.device, str(reference.SETTINGS.table)
        ip = ["ip", "-n", space, "-j"]
        self._commands = {
            "ip link": [*ip, "-d", "link"],
            "ip addr": [*ip, "addr"],
            "ip nexthop": [*ip, "nexthop"],
            "ip route": [*ip, "route", "show", "table", table],
            "ip neigh": [*ip, "neigh", "show", "dev", device, "nud", "permanent"],
            "bridge fdb": ["bridge", "-n", space, "-j", "fdb", "show", "dev", device],
            "ip rule": [*ip, "rule"],
            "nft": ["ip", "netns", "exec", space, "nft", "-j", "list", "table", "inet", reference.SETTINGS.nft_table],
        }
        self._out = directory / "dump"
        self.cpu_s = dict.fromkeys(self._commands, 0.0)

    def read(self) -> float:
        """CPU seconds of all programs."""
        started = site.children_cpu_s()
        for name, command in self._commands.items():
            before = site.children_cpu_s()
            with self._out.open("w") as out:
                subprocess.run(command, stdout=out, check=True, timeout=60)
            self.cpu_s[name] += site.children_cpu_s() - before
        return site.children_cpu_s() - started
