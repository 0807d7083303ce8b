"""What the agent reads, from its own API server only: its Node and MeshNode, RemoteNodes, the cluster's id."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from clustermeshd.agent.engine import Inputs, Pending
from clustermeshd.agent.packed import PackedRemoteNode, Unpacked, pack
from clustermeshd.kube import informer, objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.informer import Informer, when_other
from clustermeshd.kube.resources import Resource
from clustermeshd.model.addresses import parse_point
from clustermeshd.model.errors import MeshError
from clustermeshd.plan.overlay import Change
from clustermeshd.plan.overlay_local import local_node
from clustermeshd.plan.paths import Target

_LOG = logging.getLogger(__name__)
_IDENTITY_NAMESPACE = "kube-system"
_LONGEST_RETRY_S = 10.0


class ClusterInputs:
    """Informers on this Node and all RemoteNodes; ``snapshot`` is None until each has listed completely."""

    def __init__(self, client: Client, node_name: str, on_change: Callable[[], None]) -> None:
        self._client, self._node_name, self._changed = client, node_name, on_change
        self._cluster_id = ""
        self._identified = asyncio.Event()
        self._version = 0
        self._seen = 0  # version at the last look
        self._told: tuple[str, ...] = ()  # prefixes of our pods, where the controller knows better than the Node
        self._path_mtus: dict[tuple[str, str, int], int] = {}
        self._nodes: Informer[objects.Node] = Informer(
            client,
            resources.NODES,
            field_selector=f"metadata.name={node_name}",
            on_change=when_other(self._touch, lambda node: local_node(node, "")),  # heartbeats rewrite it all the time
        )
        kind: Resource[Any] = resources.REMOTE_NODES  # what is kept of one is of another type
        self._remotes: Informer[PackedRemoteNode] = Informer(client, kind, on_change=self._on_remote, keep=pack)
        self._mesh_nodes: Informer[objects.MeshNode] = Informer(
            client,
            resources.MESH_NODES,
            field_selector=f"metadata.name={node_name}",
            on_change=self._on_mesh_node,
            keep=objects.MeshNode.told,
        )
        self._pending: dict[str, Change] | None = None  # by name, since the last look; None: look at everything

    @property
    def has_synced(self) -> bool:
        """Every input has listed; a kind that is not served counts as unknown here, not as empty."""
        informers = (self._nodes, self._remotes, self._mesh_nodes)
        listed = all(informer.has_synced and informer.served for informer in informers)
        return bool(self._cluster_id) and listed

    @property
    def version(self) -> int:
        """Another one whenever an input has changed."""
        return self._version

    @property
    def node(self) -> objects.Node | None:
        return self._nodes.store.get(self._node_name)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._nodes.run())
            group.create_task(self._remotes.run())
            group.create_task(self._mesh_nodes.run())
            group.create_task(self._identify())
            group.create_task(self._announce())

    async def wait_synced(self) -> None:
        await self._identified.wait()
        await self._nodes.wait_synced()
        await self._remotes.wait_synced()
        await self._mesh_nodes.wait_synced()

    def snapshot(self) -> Inputs | None:
        """The inputs now; None while one is missing, this Node's object included: then nothing may be touched."""
        node = self.node
        if not self.has_synced or node is None:
            return None
        pending = self._look()
        local = local_node(node, self._cluster_id, self._told)
        return Inputs(local, Unpacked(self._remotes.store.values()), self._version, self._path_mtus, pending)

    def targets(self, mtus: Mapping[tuple[str, int], int]) -> list[Target]:
        """Tunnel addresses of remote nodes in families that this node has one of, where ``mtus`` knows the way.

        May be asked from any thread.
        """
        node = self.node
        if node is None:
            return []
        own = {address.version: str(address) for address in local_node(node, "", self._told).tunnel_addresses}
        found = []
        for remote in Unpacked(self._remotes.store.values()):
            spec = remote.spec
            for address in spec.tunnel_addresses:
                family = 6 if ":" in address else 4
                mtu = mtus.get((spec.overlay_routing_mode, family))
                if family in own and mtu is not None and parse_point(address) is not None:
                    mode = spec.overlay_routing_mode
                    found.append(Target(spec.cluster_name, spec.node_name, family, address, own[family], mode, mtu))
        return found

    def see_paths(self, mtus: Mapping[tuple[str, str, int], int]) -> None:
        """Largest packets that pass on paths that do not take full ones."""
        if mtus != self._path_mtus:
            self._path_mtus = dict(mtus)
            self._touch()

    def changes(self) -> Pending | None:
        """Remote nodes that changed since the last look; None where more than that did."""
        return self._look() if self._pending is not None and self.has_synced else None

    def _look(self) -> Pending | None:
        since, self._seen = self._seen, self._version
        pending, self._pending = self._pending, {}
        return None if pending is None else Pending(since, self._version, list(pending.values()))

    def _touch(self) -> None:
        self._pending = None
        self._note()

    def _note(self) -> None:
        self._version += 1
        self._changed()

    def _on_remote(self, change: informer.Change[PackedRemoteNode]) -> None:
        if self._pending is not None:
            old, new = (None if node is None else node.unpack() for node in (change.old, change.new))
            name = (change.new or change.old or PackedRemoteNode()).key
            before = self._pending.get(name)
            self._pending[name] = Change(before.old if before else old, new)
        self._note()

    def _on_mesh_node(self, change: informer.Change[objects.MeshNode]) -> None:
        """One that is gone takes nothing back, nor does one made anew, as we do ourselves, until it says something."""
        old, new = change.old, change.new
        told = new.spec.pod_cidrs if new is not None else ()
        is_taken_back = bool(old and new and old.metadata.uid == new.metadata.uid and old.spec.pod_cidrs)
        if told != self._told and (told or is_taken_back):
            self._told = told
            self._touch()

    async def _identify(self) -> None:
        """The UID of kube-system is the cluster's id; asked for until it is known, since it never changes."""
        delay_s = 0.25
        while not self._cluster_id:
            try:
                namespace = await self._client.get(resources.NAMESPACES, _IDENTITY_NAMESPACE)
                self._cluster_id = namespace.metadata.uid
                self._identified.set()
            except (MeshError, OSError) as error:
                _LOG.warning("cluster id: %s", error)
                await asyncio.sleep(random.uniform(delay_s / 2, delay_s))  # noqa: S311
                delay_s = min(2 * delay_s, _LONGEST_RETRY_S)
        self._touch()

    async def _announce(self) -> None:
        """A list without objects changes nothing and still completes the inputs."""
        await self.wait_synced()
        self._changed()
