"""One connection to a remote cluster: a client, an identity, informers. It lives until its credentials are replaced.

Whatever happens to it, its stores keep what they last saw: losing a peer removes nothing (fail static).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from clustermeshd.controller.facts import ServiceFacts, ServiceName, slim_service
from clustermeshd.controller.prefixes import PrefixSource
from clustermeshd.kube import objects, resources
from clustermeshd.kube.access import Access
from clustermeshd.kube.budget import Budget
from clustermeshd.kube.client import Client
from clustermeshd.kube.informer import Change, Informer, Limits, when_other
from clustermeshd.model.errors import MeshError, Refused, Retriable
from clustermeshd.plan.admission import identity
from clustermeshd.plan.entering import entered
from clustermeshd.plan.remotenodes import planned_by

_LOG = logging.getLogger(__name__)

_RETRY_S = 5.0
_REFUSED_RETRY_S = 30.0
_VERSION_PERIOD_S = 300.0
_PEERS_OF_PEER = 1_000
_DIRECTION_BACKOFF_S = 300.0  # an account of an older release may not read them, and nobody needs to know often


class Connection:
    """Facts of a remote cluster, called ``name`` here, as long as one set of credentials, and of limits, is used.

    ``accept`` gets the cluster id before anything else is read and raises Refused for a cluster that may not be a
    peer. ``nodes_changed``, ``services_changed`` and ``namespaces_changed`` are called from the event loop.
    A server that falls silent is noticed by the client, which asks it whether it lives.
    """

    def __init__(
        self,
        name: str,
        access: Access,
        *,
        limits: objects.ImportLimits,
        user_agent: str,
        accept: Callable[[str], None],
        nodes_changed: Callable[[], None],
        services_changed: Callable[[ServiceName], None],
        namespaces_changed: Callable[[], None],
        directions_changed: Callable[[], None],
    ) -> None:
        self.access = access
        self.limits = limits
        self.cluster_id = ""
        self.server_version = ""
        self.problem: MeshError | None = None
        self.services = ServiceFacts(services_changed)
        self._accept = accept
        self._nodes_changed = nodes_changed
        self._client = Client(access, user_agent=user_agent)
        budget = Budget(limits.total_bytes)
        self.nodes: Informer[objects.Node] = Informer(
            self._client,
            resources.NODES,
            on_change=when_other(nodes_changed, planned_by),
            limits=Limits(limits.nodes, limits.object_bytes, budget),
        )
        self.namespaces: Informer[objects.Namespace] = Informer(
            self._client,
            resources.NAMESPACES,
            on_change=lambda change: self._namespace_changed(change, namespaces_changed),
            keep=_slim_namespace,
            limits=Limits(limits.services, limits.object_bytes, budget),
        )
        self.service_informer: Informer[objects.Service] = Informer(
            self._client,
            resources.SERVICES,
            on_change=self.services.on_service,
            keep=slim_service,
            limits=Limits(limits.services, limits.object_bytes, budget),
        )
        self.slice_informer: Informer[objects.EndpointSlice] = Informer(
            self._client,
            resources.ENDPOINT_SLICES,
            on_change=self.services.on_slice,
            keep=partial(entered, cluster=name),
            limits=Limits(limits.endpoint_slices, limits.object_bytes, budget),
        )
        self.prefixes = PrefixSource(self._client, self.nodes, limits, nodes_changed, budget)
        self._configurations: Informer[objects.RemoteClusterConfiguration] = Informer(
            self._client,
            resources.REMOTE_CLUSTER_CONFIGURATIONS,
            on_change=when_other(directions_changed, lambda theirs: theirs.status.cluster_id),
            keep=_slim_configuration,
            limits=Limits(_PEERS_OF_PEER, limits.object_bytes, budget),
            max_backoff_s=_DIRECTION_BACKOFF_S,
        )

    @property
    def informers(self) -> tuple[Informer[Any], ...]:
        """Those that run now."""
        always = (self.nodes, self.namespaces, self.service_informer, self.slice_informer)
        return (*always, *(i for i in (self.prefixes.blocks, self.prefixes.pods) if i is not None))

    @property
    def has_synced(self) -> bool:
        return self.prefixes.has_synced and all(informer.has_synced for informer in self.informers)

    @property
    def error(self) -> MeshError | None:
        """Why the peer cannot be read right now; None while everything flows."""
        failed = (informer.error for informer in self.informers if informer.error is not None)
        return self.problem or self.prefixes.error or next(failed, None)

    def leads_to(self, cluster_id: str) -> bool | None:
        """Whether the peer reads that cluster, by its own configurations; None where they do not tell.

        They do not where the peer has other software, or an account of an older release, or where a configuration
        of theirs has not reached its cluster yet.
        """
        told = [configuration.status.cluster_id for configuration in self._configurations.store.values()]
        if cluster_id in told:
            return True
        is_known = self._configurations.has_synced and self._configurations.served and "" not in told
        return False if is_known and not self._configurations.is_full else None

    @property
    def last_event_age_s(self) -> float:
        """Seconds since the peer last said anything."""
        return min(informer.last_event_age_s for informer in self.informers)

    @property
    def lag_s(self) -> float:
        """How old the facts of the peer may be: a kind that is watched is as current as the server is alive."""
        silence_s = self._client.silence_s
        watched = min(silence_s, self.last_event_age_s)
        return max(
            watched if i.state == "watching" and i.error is None else i.last_event_age_s for i in self.informers
        )

    @property
    def relists(self) -> int:
        return sum(informer.relists for informer in self.informers)

    async def run(self) -> None:
        """Reads the peer until cancelled; every failure is kept in ``error`` and tried again."""
        async with self._client:
            await self._identify()
            async with asyncio.TaskGroup() as group:
                for informer in self.informers:
                    group.create_task(informer.run())
                group.create_task(self.prefixes.run())
                group.create_task(self._follow_version())
                group.create_task(self._configurations.run())  # what it tells is nothing to wait for

    async def _follow_version(self) -> None:
        """A server may be upgraded under a connection."""
        while True:
            await asyncio.sleep(_VERSION_PERIOD_S)
            try:
                self.server_version = await self._client.server_version()
            except MeshError as error:
                _LOG.debug("version not read: %s", error)

    async def wait_synced(self) -> None:
        for informer in self.informers:
            await informer.wait_synced()
        await self.prefixes.wait_synced()

    async def _identify(self) -> None:
        while True:
            try:
                namespace = await self._client.get(resources.NAMESPACES, "kube-system")
                self.server_version = await self._client.server_version()
                identity(namespace.metadata.uid, self.access.server)
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

    def _namespace_changed(self, change: Change[objects.Namespace], changed: Callable[[], None]) -> None:
        if change.differs_in(lambda namespace: namespace.labels):
            changed()
        if change.new is not None and change.new.metadata.name == "kube-system":
            self._identity_read(change.new.metadata.uid)

    def _identity_read(self, cluster_id: str) -> None:
        """A cluster may be made anew, or replaced by another one, under the same address and credentials."""
        if cluster_id in ("", self.cluster_id):
            return
        _LOG.warning("%s: cluster %s is now cluster %s", self.access.server, self.cluster_id, cluster_id)
        try:
            identity(cluster_id, self.access.server)
            self._accept(cluster_id)
        except Refused as error:
            self.problem = error
            return
        self.cluster_id = cluster_id
        self._nodes_changed()


def _slim_configuration(theirs: objects.RemoteClusterConfiguration) -> objects.RemoteClusterConfiguration:
    """Name, and the cluster it leads to."""
    meta, cluster_id = theirs.metadata, theirs.status.cluster_id
    return objects.RemoteClusterConfiguration(
        metadata=objects.Metadata(name=meta.name, resource_version=meta.resource_version),
        status=objects.RemoteClusterConfigurationStatus(cluster_id=cluster_id),
    )


def _slim_namespace(namespace: objects.Namespace) -> objects.Namespace:
    """Name, uid and labels."""
    meta = namespace.metadata
    return objects.Namespace(
        metadata=objects.Metadata(
            name=meta.name, uid=meta.uid, resource_version=meta.resource_version, labels=meta.labels
        )
    )
