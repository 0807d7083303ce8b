"""``agent-memory``: what the agent process keeps in memory, per remote node and at all.

The agent is real and so is its API server. It is measured at rest, with few and with many remote nodes, in two ways:
started when all are there, and grown while it runs. Each time it has gone through three full resyncs before, since
they leave garbage behind.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bench import facts, reference, site
from bench.cluster import Cluster, cluster
from bench.report import Ratio, Table

_FEW = 10
_RESYNCS = 3
_ROUNDS = "clustermesh_agent_reconcile_seconds_count"
KIB, MIB = 1 << 10, 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=10_000, help="remote nodes")


def run(options: argparse.Namespace) -> list[Ratio]:
    table = Table("remote nodes", "how", "RSS MiB", "peak MiB", "KiB per node")
    with cluster() as made:
        made.create(facts.remotes(_FEW))
        agent = made.agent()
        base = _at_rest(made, agent, _FEW)
        table.row(_FEW, "started", base / MIB, _peak(agent) / MIB, "")
        made.create(facts.remotes(options.nodes - _FEW, first=_FEW))
        grown = _at_rest(made, agent, options.nodes)
        extra = options.nodes - _FEW
        table.row(options.nodes, "grown", grown / MIB, _peak(agent) / MIB, (grown - base) / extra / KIB)
        agent.stop()
        agent = made.agent()
        started = _at_rest(made, agent, options.nodes)
        table.row(options.nodes, "started", started / MIB, _peak(agent) / MIB, (started - base) / extra / KIB)
    per_node = (max(started, grown) - base) / extra / KIB
    return [
        Ratio("agent-memory/KiB-per-node", per_node, 3),
        Ratio("agent-memory/base-MiB", base / MIB, 96),
    ]


def _at_rest(made: Cluster, agent: site.Agent, count: int) -> int:
    """Resident bytes once all is programmed, resyncs are through and nothing moves any more."""
    agent.until_notified("READY=1", 120)
    site.until(lambda: made.routes(reference.SETTINGS.table) == count, 300, lambda: agent.log[-2000:])
    for number in range(_RESYNCS):
        before = agent.metric(_ROUNDS)
        stranger = ["route", "add", f"192.0.2.{number}/32", "dev", "lo", "table", str(reference.SETTINGS.table)]
        made.space.ip(*stranger)
        made.space.ip("route", "del", *stranger[2:])
        site.until(lambda before=before: agent.metric(_ROUNDS) > before, 60, lambda: agent.log[-2000:])
    resident, quiet_since = 0, time.monotonic()
    while time.monotonic() - quiet_since < 3:
        if abs(agent.resident_bytes() - resident) > 64 * KIB:
            resident, quiet_since = agent.resident_bytes(), time.monotonic()
        time.sleep(0.1)
    return resident


def _peak(agent: site.Agent) -> int:
    text = Path(f"/proc/{agent.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) * KIB
