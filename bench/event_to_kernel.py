"""``event-to-kernel``: from a RemoteNode written to its route in the kernel.

The clock starts when the API server has acknowledged the write and stops when route netlink tells of the route. Our
agent and the reference, a shell loop on ``kubectl get --watch`` that makes the same four objects with ``ip`` and
``bridge``, take turns in blocks of events on the same node and the same API server; only one of them runs at a time.
Events come one at a time with a random pause. Repeated with many remote nodes there already.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable
from itertools import count
from typing import Final

from clustermeshd.kube.client import Client
from clustermeshd.model.addresses import parse_network

from bench import facts
from bench.cluster import Cluster, cluster, create, end
from bench.monitor import RouteMonitor
from bench.report import BenchError, Ratio, Table, percentile

_BLOCKS: Final = 5
_PAUSE_S: Final = (0.02, 0.06)
_TIMEOUT_S: Final = 30.0
_SHELL_TABLE: Final = 5000
_LOOP: Final = f"""
$KUBECTL get remotenodes --watch-only -o jsonpath='{{.spec.podCIDRs[0]}} {{.spec.addresses[0]}} \
{{.spec.tunnelAddresses[0]}} {{.spec.vtepMAC}}{{"\\n"}}' | while read -r cidr outer gateway mac; do
  id=$((id + 1))
  bridge fdb replace $mac dev shell0 dst $outer self permanent
  ip neigh replace $gateway lladdr $mac dev shell0 nud permanent
  ip nexthop replace id $id via $gateway dev shell0 onlink
  ip route replace $cidr nhid $id table {_SHELL_TABLE}
done
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=1000, help="events of each, with few remote nodes there before")
    parser.add_argument("--nodes", type=int, default=10_000, help="remote nodes there before in the second part; or 0")


def run(options: argparse.Namespace) -> list[Ratio]:
    table = Table("before", "way", "events", "p50 ms", "p99 ms", "max ms", "write ms")
    ratios = []
    for before in [0, options.nodes][: 1 + bool(options.nodes)]:
        events = options.events // (5 if before else 1)
        name = f"event-to-kernel/{before}-nodes" if before else "event-to-kernel"
        ratios.append(Ratio(name, _measure(before, events, table), 0.5))
    return ratios


def _measure(before: int, events: int, table: Table) -> float:
    """Ratio of the 99th percentiles."""
    with cluster() as made:
        made.create(facts.remotes(before))
        made.space.batch("""
            link add shell0 type vxlan id 5001 dev eth0 local 10.90.1.2 dstport 4791 nolearning
            link set shell0 up""")
        samples, writes = made.space.call(lambda: asyncio.run(_Run(made, before).blocks(events)))
    for way, values in samples.items():
        figures = (statistics.median(values), percentile(values, 99), max(values), statistics.median(writes))
        table.row(before, way, len(values), *(1000 * figure for figure in figures))
    return percentile(samples["ours"], 99) / percentile(samples["shell"], 99)


class _Run:
    """To be made in the node's namespace, inside an event loop."""

    def __init__(self, made: Cluster, before: int) -> None:
        self._made, self._numbers = made, count(before)
        self._random = random.Random(4)  # noqa: S311  # spreads events alike in every run
        self._writes: list[float] = []
        self._routes = RouteMonitor()
        self._expected = b""
        self._seen: asyncio.Future[float] | None = None

    async def blocks(self, events: int) -> tuple[dict[str, list[float]], list[float]]:
        """Seconds of each event by way, and of each write."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._routes.fileno(), self._on_route)
        samples: dict[str, list[float]] = {"ours": [], "shell": []}
        async with await self._made.client() as client:
            for number in range(_BLOCKS):
                for way in sorted(samples, reverse=bool(number % 2)):
                    stop = self._start(way)
                    await self._warm_up(client)
                    samples[way] += [await self._event(client, _TIMEOUT_S) for _ in range(events // _BLOCKS)]
                    stop()
        self._routes.close()
        return samples, self._writes

    def _start(self, way: str) -> Callable[[], object]:
        if way == "shell":
            loop = self._made.shell(_LOOP)
            return lambda: end(loop)
        agent = self._made.agent()
        agent.until_notified("READY=1", 120)
        return agent.stop

    async def _warm_up(self, client: Client) -> None:
        """The watch stands when it has told of something."""
        for _ in range(10):
            try:
                await self._event(client, 3)
            except BenchError:
                continue
            return
        raise BenchError("no event reaches the kernel")

    async def _event(self, client: Client, timeout_s: float) -> float:
        remote = facts.remotes(1, first=next(self._numbers))[0]
        network = parse_network(remote.spec.pod_cidrs[0])
        self._expected = network.network_address.packed if network else b""
        self._seen = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        await create(client, remote)
        written = time.perf_counter()
        try:
            seen = await asyncio.wait_for(self._seen, timeout_s)
        except TimeoutError as error:
            raise BenchError(f"no route for {remote.metadata.name} within {timeout_s:g} s") from error
        self._writes.append(written - started)
        await asyncio.sleep(self._random.uniform(*_PAUSE_S))
        return seen - written

    def _on_route(self) -> None:
        now = time.perf_counter()
        if self._expected in self._routes.read() and self._seen is not None and not self._seen.done():
            self._seen.set_result(now)
