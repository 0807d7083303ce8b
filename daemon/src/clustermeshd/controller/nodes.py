"""Mirrors the nodes of all peers into RemoteNodes, as far as admission lets them in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import zip_longest

from clustermeshd.controller.local import LocalFacts
from clustermeshd.controller.peer import Peer
from clustermeshd.kube import objects, resources
from clustermeshd.kube.writer import Writer
from clustermeshd.model import names
from clustermeshd.model.addresses import Point, Prefix
from clustermeshd.model.errors import Refused
from clustermeshd.plan import remotenodes
from clustermeshd.plan.admission import LocalNetworks, allowed, host_prefix
from clustermeshd.plan.ipam import spec_cidrs
from clustermeshd.plan.remotenodes import PeerNodes, PeerPlan

_LOG = logging.getLogger(__name__)

_AT_ONCE = 8


class NodeMirror:
    """Owner of the RemoteNode objects; ``plans`` is what the last reconcile decided, by peer."""

    def __init__(self, local: LocalFacts, peers: Mapping[str, Peer], writer: Writer) -> None:
        self.plans: dict[str, PeerPlan] = {}
        self._memory = remotenodes.Memory()
        self._networks = LocalNetworks()
        self._local = local
        self._peers = peers
        self._writer = writer

    def admitted(self, peer: str) -> frozenset[Prefix]:
        """Prefixes in which endpoints of ``peer`` may lie."""
        plan = self.plans.get(peer)
        return plan.owned if plan is not None else frozenset()

    def still_admits(self, peer: str, point: Point) -> bool:
        """Whether ``peer``, which is not read now, may keep an address: it is not ours, and rules let it in."""
        rules = allowed(self._peers[peer].configuration.spec.import_)
        return self._networks.collision(host_prefix(point)) is None and rules.endpoint(point)

    def replan(self) -> None:
        """Decides anew what every peer gets."""
        facts = [self._facts(peer) for peer in self._peers.values()]
        self._networks = self._local.networks()
        self.plans = remotenodes.plan(self._networks, facts, self._memory)

    async def write(self) -> None:
        """Writes what differs; removes what no peer has, of peers that are gone or have listed completely.

        Several at once, and one node of each peer in turn, so that a peer with many delays no other. A node that our
        API server refuses stops no other one: the first Refused is raised after all were written.
        """
        store = self._local.remote_nodes.store
        desired = {name: node for plan in self.plans.values() for name, node in plan.nodes.items()}
        turns = zip_longest(*(plan.nodes.values() for plan in self.plans.values()))
        waiting = iter([node for turn in turns for node in turn if node is not None])
        refused: list[Refused] = []

        async def work() -> None:
            for node in waiting:
                try:
                    await self._writer.ensure(resources.REMOTE_NODES, node, actual=store.get(node.metadata.name))
                except Refused as error:
                    refused.append(error)

        ended = await asyncio.gather(*(work() for _ in range(_AT_ONCE)), return_exceptions=True)
        for error in filter(None, ended):
            raise error
        for name in [name for name in store if name not in desired]:
            _LOG.info("removing RemoteNode %s", name)
            await self._writer.remove(resources.REMOTE_NODES, store[name])
        await self._tell_agents()
        if refused:
            raise refused[0]

    async def _tell_agents(self) -> None:
        """Gives each node of ours the prefixes of its pods, where its Node object does not say them."""
        known, stored = self._local.prefixes.prefixes(), self._local.mesh_nodes.store
        for name, node in self._local.nodes.store.items():
            told = known.of(node)
            wanted = objects.MeshNodeSpec(() if told == spec_cidrs(node) else told)
            actual = stored.get(name, objects.MeshNode())
            if wanted != actual.spec:
                mesh_node = objects.MeshNode(metadata=objects.Metadata(name=name), spec=wanted)
                await self._writer.write(resources.MESH_NODES, mesh_node, actual=stored.get(name))

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
