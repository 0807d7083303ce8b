"""``churn``: remote endpoints change all the time; how far behind the local slices are, and what keeping up costs.

Changes are spread evenly over the remote clusters and their Services, each flips one endpoint's readiness in one slice
and carries its number in the last-change annotation, which the controller hands on: a watch on the local slices tells
when a change, or a later one of the same slice, has arrived. The lag counts from the moment the remote API server
acknowledged a change. Writes are counted by the local API server's audit log, whatever the controller says of itself.

Real API servers take some milliseconds of processor time for each write of a slice, on either side. Where there are
too few CPUs for that, ``--simulated`` shows what the controller does at the whole rate: the same controller, TLS, HTTP
and objects, and servers that only store.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from bench.churn_servers import Servers, Session, servers
from bench.federation import Controller, Size, controller, slice_body
from bench.report import BenchError, Ratio, Table, percentile

_EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
_DRAIN_S = 30.0
_ENDPOINTS_DRAIN_S = 120.0  # Endpoints objects are written at a bounded rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--endpoints", type=int, default=50, help="of each remote Service")
    parser.add_argument("--rate", type=float, default=325.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--simulated", action="store_true", help="API servers that only store")


def run(options: argparse.Namespace) -> list[Ratio]:
    size = Size(services=options.services, endpoints=options.endpoints)
    lags = ("lag p50 ms", "lag p99 ms", "lag max ms")
    table = Table("changes", "per s", *lags, "our cores", "remote APIs", "local API", "writes per change")
    with (
        servers(size, is_simulated=options.simulated) as (made, directory),
        controller(made.kubeconfig, directory) as running,
    ):
        running.until_in_sync(size.remotes, size.services)
        time.sleep(15)
        before, used = made.writes(), _used_s(made, running)
        load = _Load(made, size, options.rate, options.seconds)
        made.run(load.run())
        cores = [(after - first) / load.elapsed_s for after, first in zip(_used_s(made, running), used, strict=True)]
        _drain(running)
        writes = (made.writes() - before) / len(load.lags)
    p99 = percentile(load.lags, 99)
    rate = len(load.lags) / load.elapsed_s
    median = statistics.median(load.lags)
    table.row(len(load.lags), rate, 1000 * median, 1000 * p99, 1000 * max(load.lags), *cores, writes)
    if rate < 0.9 * options.rate or p99 > 1:
        needed = sum(cores) * options.rate / rate
        told = f"{rate:.0f} changes a second of {options.rate:g} were taken on {os.cpu_count()} CPUs"
        print(f"{told}; the API servers and we need at least {needed:.1f} for all")
    return [
        Ratio("churn/lag-p99-s", p99, 1.0),
        Ratio("churn/controller-cores", cores[0], 0.8),
        Ratio("churn/writes-per-change", writes, 1.2),
    ]


def _used_s(made: Servers, running: Controller) -> list[float]:
    """Seconds of processor time so far: ours, of the remote API servers, of the local one."""
    return [running.cpu_s(), *made.used_s()]


def _drain(running: Controller) -> None:
    deadline = time.monotonic() + _ENDPOINTS_DRAIN_S
    while running.metric("clustermesh_federation_in_sync") != 1:
        if time.monotonic() > deadline:
            raise BenchError(f"the queue is not empty {_ENDPOINTS_DRAIN_S:g} s after the last change")
        time.sleep(0.1)


class _Load:
    """Changes at a steady rate, and when each has arrived."""

    def __init__(self, made: Servers, size: Size, rate: float, seconds: float) -> None:
        self.lags: list[float] = []
        self.elapsed_s = 0.0
        self._sent_all = False
        self._made, self._size, self._rate, self._seconds = made, size, rate, seconds
        self._random = random.Random(7)  # noqa: S311  # alike in every run
        self._pending: defaultdict[str, dict[int, float]] = defaultdict(dict)  # slice of ours -> change -> when
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turns: Counter[str] = Counter()
        self._all_arrived = asyncio.Event()

    async def run(self) -> None:
        async with self._made.session(self._arrived) as session:
            started = time.perf_counter()
            await self._change(session)
            self.elapsed_s = time.perf_counter() - started
            self._sent_all = True
            self._look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_arrived.wait(), _DRAIN_S)
        missing = sum(map(len, self._pending.values()))
        if missing:
            raise BenchError(f"{missing} changes have not arrived {_DRAIN_S:g} s after the last one")

    async def _change(self, session: Session) -> None:
        size = self._size
        total = int(self._rate * self._seconds)
        started = time.perf_counter()
        gate = asyncio.Semaphore(64)
        async with asyncio.TaskGroup() as group:
            for number in range(total):
                pause_s = started + number / self._rate - time.perf_counter()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                await gate.acquire()
                remote, service = number % size.remotes, self._random.randrange(size.services)
                group.create_task(self._one(session, gate, number, remote, service))

    async def _one(self, session: Session, gate: asyncio.Semaphore, number: int, remote: int, service: int) -> None:
        size = self._size
        stamp = (_EPOCH + timedelta(microseconds=number)).isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = session.slices[size.address(remote, service * size.endpoints)]
        pending = self._pending[ours]
        async with self._locks[ours]:  # changes of one slice are taken in their order, and each differs from the last
            self._turns[ours] += 1
            body = slice_body(size, remote, service, trigger=stamp, unready=self._turns[ours] % size.endpoints)
            pending[number] = float("inf")
            await session.change(remote, body)
            if number in pending:  # else it has arrived before we were told that it was taken
                pending[number] = time.perf_counter()
        gate.release()

    def _arrived(self, name: str, trigger: str, now: float) -> None:
        if not trigger:
            return
        number = round((datetime.fromisoformat(trigger) - _EPOCH) / timedelta(microseconds=1))
        pending = self._pending[name]
        for earlier in [n for n in pending if n <= number]:
            self.lags.append(max(0.0, now - pending.pop(earlier)))
        self._look()

    def _look(self) -> None:
        if self._sent_all and not any(self._pending.values()):
            self._all_arrived.set()
