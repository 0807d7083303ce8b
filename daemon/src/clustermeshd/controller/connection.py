"""One connection to a remote cluster: a client, an identity, informers. It lives until its credentials are replaced.

Whatever happens to it, its stores keep what they last saw: losing a peer removes nothing (fail static).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from clustermeshd.controller.facts import ServiceFacts, ServiceName, slim_service, slim_slice
from clustermeshd.kube import objects, resources
from clustermeshd.kube.access import Access
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Unreachable
from clustermeshd.kube.informer import Change, Informer
from clustermeshd.model.errors import MeshError, Refused, Retriable

_LOG = logging.getLogger(__name__)

_RETRY_S = 5.0
_REFUSED_RETRY_S = 30.0
_PROBE_PERIOD_S = 10.0  # a watch is silent when nothing happens; a stopped server is too
_PROBE_TIMEOUT_S = 10.0


class Connection:
    """Facts of a remote cluster, as long as one set of credentials is used.

    ``accept`` gets the cluster id before anything else is read and raises Refused for a cluster that may not be a
    peer. ``nodes_changed`` and ``services_changed`` are called on changes, from the event loop.
    """

    def __init__(
        self,
        access: Access,
        *,
        user_agent: str,
        accept: Callable[[str], None],
        nodes_changed: Callable[[], None],
        services_changed: Callable[[ServiceName], None],
    ) -> None:
        self.access = access
        self.cluster_id = ""
        self.server_version = ""
        self.problem: MeshError | None = None
        self.services = ServiceFacts(services_changed)
        self._accept = accept
        self._client = Client(access, user_agent=user_agent)
        self.nodes: Informer[objects.Node] = Informer(
            self._client, resources.NODES, on_change=lambda change: _node_changed(change, nodes_changed)
        )
        self.service_informer: Informer[objects.Service] = Informer(
            self._client, resources.SERVICES, on_change=self.services.on_service, keep=slim_service
        )
        self.slice_informer: Informer[objects.EndpointSlice] = Informer(
            self._client, resources.ENDPOINT_SLICES, on_change=self.services.on_slice, keep=slim_slice
        )

    @property
    def informers(self) -> tuple[Informer[objects.Node], Informer[objects.Service], Informer[objects.EndpointSlice]]:
        return self.nodes, self.service_informer, self.slice_informer

    @property
    def has_synced(self) -> bool:
        return all(informer.has_synced for informer in self.informers)

    @property
    def error(self) -> MeshError | None:
        """Why the peer cannot be read right now; None while everything flows."""
        return self.problem or next((i.error for i in self.informers if i.error is not None), None)

    async def run(self) -> None:
        """Reads the peer until cancelled; every failure is kept in ``error`` and tried again."""
        async with self._client:
            await self._identify()
            async with asyncio.TaskGroup() as group:
                for informer in self.informers:
                    group.create_task(informer.run())
                group.create_task(self._probe())

    async def _probe(self) -> None:
        """Asks now and then whether the server still answers, so that silence is noticed within 30 s."""
        while True:
            await asyncio.sleep(_PROBE_PERIOD_S)
            try:
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    self.server_version = await self._client.server_version()
            except TimeoutError:
                self.problem = Unreachable(f"{self._client.server}: no answer within {_PROBE_TIMEOUT_S:g} s")
            except MeshError as error:
                self.problem = error
            else:
                self.problem = None

    async def wait_synced(self) -> None:
        for informer in self.informers:
            await informer.wait_synced()

    async def _identify(self) -> None:
        while True:
            try:
                namespace = await self._client.get(resources.NAMESPACES, "kube-system")
                self.server_version = await self._client.server_version()
                self._accept(namespace.metadata.uid)
            except Refused as error:
                self.problem = error
                await asyncio.sleep(_REFUSED_RETRY_S)
            except Retriable as error:
                self.problem = error
                await asyncio.sleep(error.retry_after_s or _RETRY_S)
            else:
                self.cluster_id = namespace.metadata.uid
                self.problem = None
                return


def _node_changed(change: Change[objects.Node], changed: Callable[[], None]) -> None:
    """Heartbeats rewrite a Node's status every few seconds; only what a plan reads counts."""
    if change.old is None or change.new is None or _relevant(change.old) != _relevant(change.new):
        changed()


def _relevant(node: objects.Node) -> tuple[object, ...]:
    return node.spec, node.status.addresses, node.annotations, node.metadata.creation_timestamp
