"""Mirrors the nodes of all peers into RemoteNodes, as far as admission lets them in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from clustermeshd.controller.local import LocalFacts
from clustermeshd.controller.metrics import Metrics
from clustermeshd.controller.peer import Peer
from clustermeshd.controller.queue import FairQueue
from clustermeshd.controller.retries import Retries
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.writer import Writer, agrees
from clustermeshd.model import names
from clustermeshd.model.addresses import Prefix, parse_point
from clustermeshd.model.errors import MeshError
from clustermeshd.plan import remotenodes
from clustermeshd.plan.admission import LocalNetworks, allowed, host_prefix
from clustermeshd.plan.ipam import spec_cidrs
from clustermeshd.plan.peerstatus import reason_of
from clustermeshd.plan.remotenodes import PeerNodes, PeerPlan

_LOG = logging.getLogger(__name__)

_AT_ONCE = 8
_PAUSE_S = 0.2  # between two turns of one node: by then the informer has heard of the first
_REMOTE, _OURS = "r", "o"  # first letter of a key: RemoteNode, MeshNode


class NodeMirror:
    """Owner of the RemoteNode objects; ``plans`` is what was decided last, by peer.

    It tells the agents, too, which prefixes the pods of our own nodes have, where the Node object does not say them.
    """

    def __init__(
        self, local: LocalFacts, peers: Mapping[str, Peer], *, client: Client, writer: Writer, metrics: Metrics
    ) -> None:
        self.plans: dict[str, PeerPlan] = {}
        self._memory = remotenodes.Memory()
        self._networks = LocalNetworks()
        self._local = local
        self._peers = peers
        self._writer = writer
        self._metrics = metrics
        self._queue: FairQueue[str] = FairQueue(pause_s=_PAUSE_S)
        self._desired: dict[str, objects.Object] = {}
        self._failed: dict[str, objects.Object | None] = {}  # what was wanted then
        self._retries: Retries[str] = Retries(client, lambda key: self._queue.put("", key))
        self._busy = 0

    def admitted(self, peer: str) -> frozenset[Prefix]:
        """Prefixes in which endpoints of ``peer`` may lie."""
        plan = self.plans.get(peer)
        return plan.owned if plan is not None else frozenset()

    def still_admits(self, peer: str, texts: Iterable[str], family: int) -> bool:
        """Whether ``peer``, which is not read now, may keep addresses: they are not ours, and rules let them in."""
        rules, networks = allowed(self._peers[peer].configuration.spec.import_), self._networks
        return all(
            point is not None
            and point.family == family
            and networks.collision(host_prefix(point)) is None
            and rules.endpoint(point)
            for point in map(parse_point, texts)
        )

    def replan(self) -> None:
        """Decides anew what every peer gets, and has it written."""
        facts = [self._facts(peer) for peer in self._peers.values()]
        self._networks = self._local.networks()
        self.plans = remotenodes.plan(self._networks, facts, self._memory)
        self._queue_changes()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was decided was written, or failed and is to be tried again."""
        return not len(self._queue) and not self._busy

    def _queue_changes(self) -> None:
        """Has written what differs, and removed what no peer has, of peers that are gone or have listed completely."""
        store, stored = self._local.remote_nodes.store, self._local.mesh_nodes.store
        desired = {name: node for plan in self.plans.values() for name, node in plan.nodes.items()}
        self._desired = {_REMOTE + name: node for name, node in desired.items()}
        for name, remote in desired.items():
            actual = store.get(name)
            if actual is None or not agrees(remote, actual):
                self._put(remote.spec.cluster_name, _REMOTE + name)
        for name in store.keys() - desired.keys():
            self._put(store[name].labels.get(names.REMOTE_CLUSTER, ""), _REMOTE + name)
        known = self._local.prefixes.prefixes()
        for name, node in self._local.nodes.store.items():
            told = known.of(node)
            wanted = objects.MeshNodeSpec(() if told == spec_cidrs(node) else told)
            if wanted != stored.get(name, objects.MeshNode()).spec:
                self._desired[_OURS + name] = objects.MeshNode(metadata=objects.Metadata(name=name), spec=wanted)
                self._put("", _OURS + name)

    def _put(self, cause: str, key: str) -> None:
        """What failed waits for its own time, unless something else is wanted now."""
        if key not in self._failed or self._failed[key] != self._desired.get(key):
            self._queue.put(cause, key)

    async def run(self) -> None:
        """Writes until cancelled: several at once, and of each peer in turn, so that one with many delays no other."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            self._busy += 1
            desired = self._desired.get(key)
            try:
                await self._write(key, desired)
            except MeshError as error:  # a node that our API server refuses stops no other one
                self._failed[key] = desired
                self._metrics.errors.labels("nodes", reason_of(error)).inc()
                log = _LOG.warning if self._retries.failed(key, error) else _LOG.debug
                log("node %s: %s", key[1:], error)
            else:
                self._failed.pop(key, None)
                self._retries.succeeded(key)
            finally:
                self._busy -= 1
                self._queue.done(key)

    async def _write(self, key: str, desired: objects.Object | None) -> None:
        name = key[1:]
        if key[0] == _OURS:
            actual = self._local.mesh_nodes.store.get(name)
            if isinstance(desired, objects.MeshNode) and (actual is None or actual.spec != desired.spec):
                await self._writer.write(resources.MESH_NODES, desired, actual=actual)
            return
        mirrored = self._local.remote_nodes.store.get(name)
        if desired is not None:
            await self._writer.ensure(resources.REMOTE_NODES, desired, actual=mirrored)
        elif mirrored is not None:
            await self._writer.remove(resources.REMOTE_NODES, mirrored)

    def _facts(self, peer: Peer) -> PeerNodes:
        connection = peer.connection
        mirrored = tuple(
            node
            for node in self._local.remote_nodes.store.values()
            if node.labels.get(names.REMOTE_CLUSTER) == peer.name
        )
        if peer.is_disowned:
            return PeerNodes(peer.configuration, "", ())
        if connection is None:
            known = mirrored[0].spec.cluster_id if mirrored else ""
            return PeerNodes(peer.configuration, known, None, mirrored)
        nodes, prefixes = connection.nodes.store.values(), connection.prefixes.prefixes()
        return PeerNodes(peer.configuration, connection.cluster_id, nodes, mirrored, prefixes)
