"""``mode-switch``: packets lost while a peer is switched between the overlay and the user's own routing, and back.

The router between the nodes knows the way to all pods, so both ways work. Traffic goes to the peer that is switched,
both ways all the time, and from a third cluster that stays on the overlay. One end is switched by an agent that
follows its RemoteNode, the other by hand right after: while the two ends do not agree, the one that has left the
overlay takes no tunnel packets of that peer any more, as of any node that it does not know. So the loss is measured
against the time that the second end takes to switch.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import time

from bench import site, traffic
from bench.pair import Ends, meshed
from bench.report import BenchError, Ratio, Table

_SETTLE_S = 1.0
_PINGS_PER_S = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--switches", type=int, default=20, help="how often the peer is switched, there and back")


def run(options: argparse.Namespace) -> list[Ratio]:
    with meshed() as made, site.namespaces() as make, contextlib.ExitStack() as stack:
        nodes = made.nodes
        third, pod = nodes.node(make, 3)
        stack.callback(third.kernel.close)
        for number in (1, 2):
            nodes.router.ip("route", "add", f"10.9{number}.1.0/24", "via", f"10.90.{number}.2")
            nodes.router.ip("-6", "route", "add", f"fd9{number}:1::/64", "via", f"fd90:{number}::2")
        third.remotes = [nodes.a.as_remote()]
        third.reconcile()
        made.write_remote(third.as_remote())
        agent = made.start("--log-level", "info")
        agent.until_notified("READY=1")
        site.until(lambda: made.routes() == 4, 10, lambda: agent.log)
        ping = pod.popen("ping", "-q", "-i", str(1 / _PINGS_PER_S), "10.91.1.5")
        stack.callback(ping.communicate)
        stack.callback(ping.kill)
        ends = Ends(nodes)
        stack.callback(ends.kill)
        took_s = [_switch(made, agent, overlay=bool(number % 2)) for number in range(options.switches)]
        ends.stop()
        a, b = ends.figures()
        ping.send_signal(signal.SIGINT)
        sent, received = _counts(ping.communicate(timeout=10)[0])
    lost = {"a to b": (a["sent"], a["sent"] - b["received"]), "b to a": (b["sent"], b["sent"] - a["received"])}
    table = Table("switches", "ms of the second end", "way", "sent", "lost", "lost per switch")
    for way, (count, missing) in (lost | {"a third cluster": (sent, sent - received)}).items():
        table.row(options.switches, 1000 * sum(took_s) / len(took_s), way, count, missing, missing / options.switches)
    print(f"TCP: {a['bytes']} bytes sent, {b['bytes']} received, {a['retransmitted']} segments sent again")
    if a["bytes"] != b["bytes"]:
        raise BenchError("the TCP stream broke")
    most_s = max(missing for _, missing in lost.values()) / traffic.PER_S
    return [
        Ratio("mode-switch/others-lost", sent - received, 0),
        Ratio("mode-switch/of-the-second-end", most_s / sum(took_s), 1),
    ]


def _switch(made: site.Site, agent: site.Agent, *, overlay: bool) -> float:
    """Switches both ends; seconds that the second one took."""
    mode = "Enabled" if overlay else "Disabled"
    made.nodes.b.remotes = [made.nodes.a.as_remote(mode)]
    made.write_remote(made.nodes.b.as_remote(mode))
    started = time.monotonic()
    made.nodes.b.reconcile()
    took_s = time.monotonic() - started
    site.until(lambda: made.routes() == (4 if overlay else 2), 10, lambda: agent.log)
    time.sleep(_SETTLE_S)
    return took_s


def _counts(text: str) -> tuple[int, int]:
    found = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    if found is None:
        raise BenchError(f"ping said {text!r}")
    return int(found[1]), int(found[2])
