"""``churn``: remote endpoints change all the time; how far behind the local slices are, and what keeping up costs.

Changes are spread evenly over the remote clusters and their Services, each flips one endpoint's readiness in one slice
and carries its number in the last-change annotation, which the controller hands on: a watch on the local slices tells
when a change, or a later one of the same slice, has arrived. The lag counts from the moment the remote API server
acknowledged a change. Writes are counted by the local API server's audit log, whatever the controller says of itself.
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

import msgspec
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names

from bench.federation import NAMESPACE, Clusters, Controller, Size, client_of, clusters, controller, slice_body
from bench.report import BenchError, Ratio, Table, percentile

_EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
_DRAIN_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--endpoints", type=int, default=50, help="of each remote Service")
    parser.add_argument("--rate", type=float, default=325.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=60.0)


def run(options: argparse.Namespace) -> list[Ratio]:
    size = Size(services=options.services, endpoints=options.endpoints)
    lags = ("lag p50 ms", "lag p99 ms", "lag max ms")
    table = Table("changes", "per s", *lags, "our cores", "remote APIs", "local API", "writes per change")
    with clusters(size) as (made, directory):
        made.fill()
        made.join()
        with controller(made.local, directory) as running:
            running.until_in_sync(size.remotes, size.services)
            time.sleep(15)
            before, used = made.writes(), _used(made, running)
            load = asyncio.run(_Load(made, options.rate, options.seconds).run())
            cores = [(after - first) / load.elapsed_s for after, first in zip(_used(made, running), used, strict=True)]
            _drain(running)
            writes = (made.writes() - before) / len(load.lags)
    p99 = percentile(load.lags, 99)
    table.row(
        len(load.lags),
        len(load.lags) / load.elapsed_s,
        1000 * statistics.median(load.lags),
        1000 * p99,
        1000 * max(load.lags),
        *cores,
        writes,
    )
    rate = len(load.lags) / load.elapsed_s
    if rate < 0.9 * options.rate or p99 > 1:
        needed = sum(cores) * options.rate / rate
        told = f"{rate:.0f} changes a second of {options.rate:g} were taken on {os.cpu_count()} CPUs"
        print(f"{told}; the API servers and we need at least {needed:.1f} for all")
    return [
        Ratio("churn/lag-p99-s", p99, 1.0),
        Ratio("churn/controller-cores", cores[0], 0.8),
        Ratio("churn/writes-per-change", writes, 1.2),
    ]


def _used(made: Clusters, running: Controller) -> list[float]:
    """Seconds of processor time so far: ours, of the remote API servers, of the local one."""
    return [running.cpu_s(), sum(api.cpu_s() for api in made.remotes), made.local.cpu_s()]


def _drain(running: Controller) -> None:
    deadline = time.monotonic() + _DRAIN_S
    while running.metric("clustermesh_federation_in_sync") != 1:
        if time.monotonic() > deadline:
            raise BenchError(f"the queue is not empty {_DRAIN_S:g} s after the last change")
        time.sleep(0.1)


class _Load:
    """Changes at a steady rate, and a watch that tells when each has arrived."""

    def __init__(self, made: Clusters, rate: float, seconds: float) -> None:
        self.lags: list[float] = []
        self.elapsed_s = 0.0
        self._sent_all = False
        self._made, self._rate, self._seconds = made, rate, seconds
        self._random = random.Random(7)  # noqa: S311  # alike in every run
        self._pending: defaultdict[str, dict[int, float]] = defaultdict(dict)  # slice of ours -> change -> when
        self._origin: dict[str, str] = {}  # address -> slice of ours
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turns: Counter[str] = Counter()
        self._all_arrived = asyncio.Event()

    async def run(self) -> _Load:
        async with await client_of(self._made.local) as local:
            version = await self._learn(local)
            watch = asyncio.create_task(self._watch(local, version))
            started = time.perf_counter()
            await self._change()
            self.elapsed_s = time.perf_counter() - started
            self._sent_all = True
            self._look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_arrived.wait(), _DRAIN_S)
            watch.cancel()
        missing = sum(map(len, self._pending.values()))
        if missing:
            raise BenchError(f"{missing} changes have not arrived {_DRAIN_S:g} s after the last one")
        return self

    async def _learn(self, local: Client) -> str:
        found, version = await local.list(resources.ENDPOINT_SLICES, NAMESPACE)
        for piece in found:
            if names.REMOTE_CLUSTER in piece.labels:
                self._origin[(piece.endpoints or ())[0].addresses[0]] = piece.metadata.name
        return version

    async def _change(self) -> None:
        clients = [await client_of(api) for api in self._made.remotes]
        size = self._made.size
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
                group.create_task(self._one(clients[remote], gate, number, remote, service))
        for client in clients:
            await client.aclose()

    async def _one(self, client: Client, gate: asyncio.Semaphore, number: int, remote: int, service: int) -> None:
        size = self._made.size
        stamp = (_EPOCH + timedelta(microseconds=number)).isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = self._origin[size.address(remote, service * size.endpoints)]
        pending = self._pending[ours]
        async with self._locks[ours]:  # changes of one slice are taken in their order, and each differs from the last
            self._turns[ours] += 1
            body = slice_body(size, remote, service, trigger=stamp, unready=self._turns[ours] % size.endpoints)
            pending[number] = float("inf")
            await client.replace(resources.ENDPOINT_SLICES, body, body["metadata"]["name"], NAMESPACE)
            if number in pending:  # else it has arrived before we were told that it was taken
                pending[number] = time.perf_counter()
        gate.release()

    async def _watch(self, local: Client, version: str) -> None:
        query = {"watch": "true", "resourceVersion": version, "labelSelector": names.REMOTE_CLUSTER}
        decoder = msgspec.json.Decoder(objects.RawEvent)
        path = resources.ENDPOINT_SLICES.path(NAMESPACE)
        async with local.stream(path, query, idle_timeout_s=60) as lines:
            async for line in lines:
                now = time.perf_counter()
                bare = msgspec.json.decode(decoder.decode(line).object, type=objects.Object)
                trigger = bare.annotations.get(names.LAST_CHANGE_TRIGGER)
                if trigger:
                    self._arrived(
                        bare.metadata.name, round((_time(trigger) - _EPOCH) / timedelta(microseconds=1)), now
                    )

    def _arrived(self, name: str, number: int, now: float) -> None:
        pending = self._pending[name]
        for earlier in [n for n in pending if n <= number]:
            self.lags.append(max(0.0, now - pending.pop(earlier)))
        self._look()

    def _look(self) -> None:
        if self._sent_all and not any(self._pending.values()):
            self._all_arrived.set()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
