"""``restart-loss``: packets lost between two pods while the agent of one's node is killed and started again.

Half of the kills strike an agent at work, half one that is still starting. Each life finds a RemoteNode that was
written while there was no agent, so that kills strike writes too. Traffic goes both ways all the time.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from pathlib import Path

from bench import facts, site
from bench.pair import Ends, meshed
from bench.report import BenchError, Ratio, Table

_STARTING_S = 1.5  # a start takes about so long
_WORKING_S = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=50, help="how often the agent is killed")
    parser.add_argument(
        "--other",
        type=Path,
        metavar="DIRECTORY",
        help="daemon/src of another release, whose agent takes turns with this one's: upgrades and downgrades",
    )


def run(options: argparse.Namespace) -> list[Ratio]:
    other = options.other.resolve() if options.other is not None else None
    if other is not None and not (other / "clustermeshd").is_dir():
        raise BenchError(f"--other {other}: there is no package clustermeshd in it")
    with meshed() as made:
        ends = Ends(made.nodes)
        try:
            started = time.monotonic()
            ready = _lives(made, options.kills, other)
            ends.stop()
            a, b = ends.figures()
        finally:
            ends.kill()
        took_s = time.monotonic() - started
    table = Table("kills", "while ready", "seconds", "way", "sent", "lost")
    lost = {"a to b": (a["sent"], a["sent"] - b["received"]), "b to a": (b["sent"], b["sent"] - a["received"])}
    for way, (sent, missing) in lost.items():
        table.row(options.kills, ready, took_s, way, sent, missing)
    print(f"TCP: {a['bytes']} bytes sent, {b['bytes']} received, {a['retransmitted']} segments sent again")
    if a["bytes"] != b["bytes"] or min(a["sent"], b["sent"]) < 500 * took_s:
        raise BenchError("the TCP stream broke, or the machine was too busy to send half of the packets")
    return [Ratio("restart-loss", sum(missing for _, missing in lost.values()), 0)]


def _lives(made: site.Site, kills: int, other: Path | None) -> int:
    """Kill so many agents, two and two of each release; how many of them were at work by then."""
    moments = random.Random(7)  # noqa: S311  # the same moments in every run
    ready = 0
    for number in range(kills):
        made.write_remote(facts.remotes(1, first=number)[0])
        agent = made.start("--log-level", "info", source=other if number // 2 % 2 else None)
        if number % 2:
            agent.until_notified("READY=1")
            time.sleep(moments.uniform(0, _WORKING_S))
        else:
            time.sleep(moments.uniform(0, _STARTING_S))
        ready += any("READY=1" in line for line in agent.notified)
        if agent.stop(signal.SIGKILL) != -signal.SIGKILL:
            raise BenchError(f"the agent ended by itself: {agent.log[-2000:]}")
        agent.close()
    return ready
