"""API servers for ``churn``: real ones, or ones that only store and bear any rate in one process."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.resources import Resource
from clustermeshd.model import names

from bench.federation import (
    NAMESPACE,
    Clusters,
    Size,
    client_of,
    clusters,
    federated_bodies,
    peer_bodies,
    remote_bodies,
)
from bench.simulated import SimulatedClusters, Stored

_LOCAL = "local"

Arrived = Callable[[str, str, float], None]
"""Gets the name of a slice of ours, its last-change annotation, and when it was seen."""


@dataclass(frozen=True, slots=True)
class Session:
    """While changes are made: ``slices`` are names of ours by their first address, ``change`` writes a remote one."""

    slices: dict[str, str]
    change: Callable[[int, dict[str, Any]], Awaitable[object]]


class Servers(Protocol):
    """One local cluster and remote ones, filled and joined; ``kubeconfig`` leads to the local one."""

    kubeconfig: Path

    def writes(self) -> int:
        """Write requests that the controller has sent to the local one."""

    def used_s(self) -> list[float]:
        """Seconds of processor time so far: of the remote ones, of the local one."""

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine where sessions can be opened."""

    def session(self, arrived: Arrived) -> contextlib.AbstractAsyncContextManager[Session]:
        """Tells of every write of a slice of ours until it ends."""


class RealServers:
    """Three API servers with etcd."""

    def __init__(self, made: Clusters) -> None:
        self.kubeconfig = made.local.kubeconfig
        self.writes = made.writes
        self._made = made

    def used_s(self) -> list[float]:
        return [sum(api.cpu_s() for api in self._made.remotes), self._made.local.cpu_s()]

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run(work)

    @contextlib.asynccontextmanager
    async def session(self, arrived: Arrived) -> AsyncIterator[Session]:
        async with contextlib.AsyncExitStack() as stack:
            local = await stack.enter_async_context(await client_of(self._made.local))
            remotes = [await stack.enter_async_context(await client_of(api)) for api in self._made.remotes]
            found, version = await local.list(resources.ENDPOINT_SLICES, NAMESPACE)
            watch = asyncio.create_task(_watch(local, version, arrived))
            stack.callback(watch.cancel)

            async def change(remote: int, body: dict[str, Any]) -> None:
                await remotes[remote].replace(resources.ENDPOINT_SLICES, body, body["metadata"]["name"], NAMESPACE)

            yield Session(_by_address(found), change)


async def _watch(local: Client, version: str, arrived: Arrived) -> None:
    query = {"watch": "true", "resourceVersion": version, "labelSelector": names.REMOTE_CLUSTER}
    decoder = msgspec.json.Decoder(objects.RawEvent)
    path = resources.ENDPOINT_SLICES.path(NAMESPACE)
    async with local.stream(path, query, idle_timeout_s=60) as lines:
        async for line in lines:
            now = time.perf_counter()
            bare = msgspec.json.decode(decoder.decode(line).object, type=objects.Object)
            arrived(bare.metadata.name, bare.annotations.get(names.LAST_CHANGE_TRIGGER, ""), now)


class SimulatedServers:
    """The same, of servers that only store; what they cost is that of this process."""

    def __init__(self, made: SimulatedClusters, size: Size) -> None:
        self.kubeconfig = made.kubeconfig(_LOCAL)
        self._made, self._size = made, size

    def writes(self) -> int:
        return self._made.writes[_LOCAL]

    def used_s(self) -> list[float]:
        return [time.process_time(), 0.0]

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self._made.run(work)

    async def fill(self) -> None:
        """Everything that ``Clusters.fill`` and ``Clusters.join`` make."""
        for cluster in (_LOCAL, *_remotes(self._size)):
            spaces = [{"metadata": {"name": name}} for name in ("default", "kube-system", NAMESPACE)]
            self._store(cluster, resources.NAMESPACES, spaces)
        for number, cluster in enumerate(_remotes(self._size)):
            for resource, bodies in remote_bodies(self._size, number).items():
                self._store(cluster, resource, bodies)
            for resource, body in peer_bodies(number, self._made.kubeconfig(cluster)).items():
                self._store(_LOCAL, resource, [body])
        self._store(_LOCAL, resources.SERVICES, federated_bodies(self._size))

    def _store(self, cluster: str, resource: Resource[Any], bodies: Any) -> None:
        for body in bodies:
            self._made.store(cluster, resource.path(body["metadata"].get("namespace")), body)

    @contextlib.asynccontextmanager
    async def session(self, arrived: Arrived) -> AsyncIterator[Session]:
        path = resources.ENDPOINT_SLICES.path(NAMESPACE)
        found = [
            msgspec.json.decode(thing.raw, type=objects.EndpointSlice) for thing in self._made.stored(_LOCAL, path)
        ]

        def on_write(cluster: str, plural: str, thing: Stored) -> None:
            if cluster == _LOCAL and plural == resources.ENDPOINT_SLICES.plural:
                trigger = (thing.metadata.get("annotations") or {}).get(names.LAST_CHANGE_TRIGGER, "")
                arrived(thing.metadata["name"], trigger, time.perf_counter())

        async def change(remote: int, body: dict[str, Any]) -> None:
            self._made.store(_remotes(self._size)[remote], path, body)

        self._made.on_write = on_write
        yield Session(_by_address(found), change)


def _remotes(size: Size) -> list[str]:
    return [f"remote{number}" for number in range(size.remotes)]


def _by_address(slices: list[objects.EndpointSlice]) -> dict[str, str]:
    ours = (piece for piece in slices if names.REMOTE_CLUSTER in piece.labels)
    return {(piece.endpoints or ())[0].addresses[0]: piece.metadata.name for piece in ours}


@contextlib.contextmanager
def servers(size: Size, *, is_simulated: bool) -> Iterator[tuple[Servers, Path]]:
    """Servers that are filled and joined; and a directory for logs."""
    if not is_simulated:
        with clusters(size) as (made, directory):
            made.fill()
            made.join()
            yield RealServers(made), directory
        return
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        simulated = stack.enter_context(SimulatedClusters([_LOCAL, *_remotes(size)], directory))
        stored = SimulatedServers(simulated, size)
        stored.run(stored.fill())
        yield stored, directory
