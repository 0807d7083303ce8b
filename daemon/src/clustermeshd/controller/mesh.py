"""The leader's work: follow RemoteClusterConfigurations, keep one task per peer, reconcile what changed.

One loop decides: it follows configurations and plans nodes, and waits for nobody. What it decides is written beside
it, nodes, Services and statuses each by tasks of their own; peers run beside it too, each in its own task, so that a
dead, slow or hostile one delays neither the loop nor another peer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from clustermeshd.controller.connection import Connection
from clustermeshd.controller.events import Events
from clustermeshd.controller.federation import Federator
from clustermeshd.controller.local import LocalFacts
from clustermeshd.controller.metrics import Metrics
from clustermeshd.controller.nodes import NodeMirror
from clustermeshd.controller.peer import Peer
from clustermeshd.controller.status import StatusWriter
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.writer import Writer
from clustermeshd.model import names
from clustermeshd.model.addresses import Prefix, Ranges
from clustermeshd.model.errors import MeshError, Refused
from clustermeshd.plan.peerstatus import reason_of
from clustermeshd.plan.remotenodes import age
from clustermeshd.runtime.notify import Notifier

_LOG = logging.getLogger(__name__)

_SETTLE_S = 0.05  # a burst of events becomes one reconcile
_RETRY_S = 1.0
_MAX_REST_S = 2.0
_STATUS_PERIOD_S = 5.0
_STUCK_S = 120.0  # a loop that has not turned for this long is reported dead
_RESYNC_PERIOD_S = 300.0  # what no event told (Calico's federation controller has the same period)


class Mesh:
    """Everything one leader does; ``run`` ends only by cancellation or a fatal error."""

    def __init__(
        self, client: Client, *, user_agent: str, metrics: Metrics, notifier: Notifier, fence: Callable[[], None]
    ) -> None:
        self.peers: dict[str, Peer] = {}
        self._has_started = False
        self._has_synced = False
        self._client = client
        self._user_agent = user_agent
        self._metrics = metrics
        self._notifier = notifier
        self._last_turn = self._plan_after = time.monotonic()
        self._wake = asyncio.Event()
        self._wake_status = asyncio.Event()
        self._dirty_configurations = True
        self._dirty_nodes = True
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failing: set[str] = set()  # peers whose status was not written when it last was to be
        self._node_names: frozenset[str] = frozenset()
        self._in_force: dict[str, tuple[Connection | None, frozenset[Prefix]]] = {}
        self._cluster_id = ""
        self._local = LocalFacts(
            client,
            configurations_changed=self._configurations_changed,
            nodes_changed=self._nodes_changed,
            services_changed=lambda name: self._federator.changed("", name),
            output_changed=lambda name: self._federator.output_changed(name),
        )
        writer = Writer(client, names.CONTROLLER_MANAGER, fence=fence)
        self._nodes = NodeMirror(self._local, self.peers, client=client, writer=writer, metrics=metrics)
        events = Events(client, fence)
        self._federator = Federator(
            self._local,
            self.peers,
            client=client,
            writer=writer,
            events=events,
            metrics=metrics,
            still_admits=self._nodes.still_admits,
        )
        self._status = StatusWriter(
            client,
            self.peers,
            self._nodes,
            refused_endpoints=self._federator.refused,
            is_settled=lambda: self._federator.is_idle,
            events=events,
            metrics=metrics,
            fence=fence,
            cluster_id=lambda: self._cluster_id,
        )

    def is_alive(self) -> bool:
        """Whether the loops turn; before the first sync it may wait for the API server as long as that takes."""
        return not self.has_synced or time.monotonic() - self._last_turn < _STUCK_S

    @property
    def has_synced(self) -> bool:
        """Whether everything that was known at the start was written once."""
        if self._has_started and self._federator.is_idle and self._nodes.is_idle:
            self._has_synced = True
        return self._has_synced

    async def run(self) -> None:
        self._cluster_id = (await self._own_identity()).metadata.uid
        async with asyncio.TaskGroup() as group:
            for informer in self._local.informers:
                group.create_task(informer.run())
            group.create_task(self._local.prefixes.run())
            await self._local.configurations.wait_synced()
            await self._local.calico_configurations.wait_synced()
            self._follow_configurations(group)  # peers are read while our own cluster still is
            await self._local.wait_synced()
            await self._loop(group)

    async def _own_identity(self) -> objects.Namespace:
        while True:
            try:
                return await self._client.get(resources.NAMESPACES, "kube-system")
            except MeshError as error:
                _LOG.warning("own API server: %s", error)
                await asyncio.sleep(_RETRY_S)

    # ---- what changed

    def _configurations_changed(self) -> None:
        self._dirty_configurations = True
        self._wake.set()

    def _nodes_changed(self) -> None:
        self._dirty_nodes = True
        self._wake.set()

    def _admission_changed(self, peer: str) -> None:
        """Which Services of a peer count is to be asked again."""
        self._in_force.pop(peer, None)
        self._nodes_changed()

    async def _tick(self) -> None:
        """Status follows time too (a peer that went silent); everything is looked at again now and then."""
        since_resync = 0.0
        while True:
            await asyncio.sleep(_STATUS_PERIOD_S)
            since_resync += _STATUS_PERIOD_S
            self._dirty_configurations = True
            if since_resync >= _RESYNC_PERIOD_S:
                since_resync = 0.0
                self._dirty_nodes = True
                self._federator.recheck_all()
            self._wake.set()

    # ---- reconcile

    async def _loop(self, group: asyncio.TaskGroup) -> None:
        self._replan()
        self._federator.start()
        self._has_started = True
        group.create_task(self._federator.run())
        group.create_task(self._nodes.run())
        group.create_task(self._write_statuses())
        group.create_task(self._tick())
        self._wake.set()
        while True:
            await self._wake.wait()
            await asyncio.sleep(_SETTLE_S)
            self._wake.clear()
            if self._dirty_configurations:
                self._dirty_configurations = False
                self._follow_configurations(group)
            if self._dirty_nodes and self._may_plan():
                self._dirty_nodes = False
                self._reconcile_nodes()
            self._wake_status.set()

    async def _write_statuses(self) -> None:
        while True:
            await self._wake_status.wait()
            self._wake_status.clear()
            for name, configuration in self._local.peers().items():
                await self._try_status(name, configuration)
                self._last_turn = time.monotonic()
            for configuration in self._local.shadowed():
                await self._status.shadowed(configuration)
            self._last_turn = time.monotonic()
            self._notifier.status(self._summary())

    def _may_plan(self) -> bool:
        """Whether planning has rested as long as it took last: a peer whose nodes never rest stops nothing else."""
        return time.monotonic() >= self._plan_after

    def _reconcile_nodes(self) -> None:
        started = time.monotonic()
        self._replan()
        took_s = time.monotonic() - started
        self._metrics.reconcile.labels("nodes").observe(took_s)
        rest_s = min(_MAX_REST_S, took_s)
        self._plan_after = time.monotonic() + rest_s
        asyncio.get_running_loop().call_later(rest_s, self._wake.set)  # for what changes meanwhile

    def _replan(self) -> None:
        """What a peer may give follows from its nodes; endpoints do not wait until those are written."""
        self._nodes.replan()
        node_names = frozenset(self._local.nodes.store)
        if node_names != self._node_names:
            self._node_names = node_names
            self._federator.recheck_all()
        for name, peer in self.peers.items():
            admitted = peer.connection, self._nodes.admitted(name)
            if self._in_force.get(name) != admitted:
                self._in_force[name] = admitted
                self._federator.in_force(name, peer.connection, Ranges(admitted[1]))

    async def _try_status(self, name: str, configuration: objects.RemoteClusterConfiguration) -> None:
        """One that fails is logged and counted, and stops no other; all are written again with the next tick."""
        started = time.monotonic()
        try:
            await self._status.reconcile(name, configuration)
        except MeshError as error:
            self._metrics.errors.labels("status", reason_of(error)).inc()
            _LOG.log(logging.DEBUG if name in self._failing else logging.WARNING, "status of %s: %s", name, error)
            self._failing.add(name)
        else:
            self._failing.discard(name)
        finally:
            self._metrics.reconcile.labels("status").observe(time.monotonic() - started)

    # ---- peers

    def _follow_configurations(self, group: asyncio.TaskGroup) -> None:
        """Starts, updates and ends peers as their configurations come and go."""
        wanted = self._local.peers()
        for name in [n for n, peer in self.peers.items() if not _same(peer, wanted.get(n))]:
            _LOG.info("Closing syncer for RemoteClusterConfiguration(%s)", name)
            self.peers.pop(name)
            self._tasks.pop(name).cancel()
            self._metrics.forget(name)
            self._in_force.pop(name, None)
            self._failing.discard(name)
            self._federator.forget(name)
            self._dirty_nodes = True
            for other in self.peers.values():
                if isinstance(other.error, Refused) and other.error.reason == "DuplicateCluster":
                    other.recheck()  # its obstacle may be gone
        for name, configuration in wanted.items():
            if name not in self.peers:
                self._start(group, configuration)
                self._dirty_nodes = True
            elif self.peers[name].configuration.spec != configuration.spec:
                self._in_force.pop(name, None)
                self._dirty_nodes = True
            self.peers[name].configuration = configuration

    def _start(self, group: asyncio.TaskGroup, configuration: objects.RemoteClusterConfiguration) -> None:
        name = configuration.metadata.name
        peer = Peer(
            self._client,
            configuration,
            user_agent=self._user_agent,
            accept=self._accept,
            nodes_changed=self._nodes_changed,
            services_changed=lambda service: self._federator.changed(name, service),
            namespaces_changed=lambda: self._admission_changed(name),
            status_changed=lambda _: self._configurations_changed(),
        )
        self.peers[peer.name] = peer
        self._tasks[peer.name] = group.create_task(peer.run(), name=f"peer {peer.name}")

    def _accept(self, mine: Peer, cluster_id: str) -> None:
        """Refuses a peer that is ourselves, or the same cluster under two names (the older name wins)."""
        if self.peers.get(mine.name) is not mine:
            return  # it is being closed: what it finds concerns nobody
        where = f"RemoteClusterConfiguration {mine.name}"
        if cluster_id == self._cluster_id:
            raise Refused(
                "SameCluster", "the kubeconfig leads to this very cluster", where=where, fix="name another one"
            )
        for other in [peer for peer in self.peers.values() if peer is not mine and peer.cluster_id == cluster_id]:
            if age(other.configuration) < age(mine.configuration):
                raise Refused(
                    "DuplicateCluster", f"it is the cluster of {other.name}", where=where, fix="delete one of the two"
                )
            other.recheck()  # it was accepted first, but this one is older

    def _summary(self) -> str:
        current = sum(1 for peer in self.peers.values() if peer.connection is not None and peer.error is None)
        nodes = sum(len(plan.nodes) for plan in self._nodes.plans.values())
        return f"leading; {current} of {len(self.peers)} peers in sync, {nodes} remote nodes"


def _same(peer: Peer, configuration: objects.RemoteClusterConfiguration | None) -> bool:
    """Whether a running peer still serves this configuration: same object, same Secret."""
    return (
        configuration is not None
        and configuration.metadata.uid == peer.configuration.metadata.uid
        and configuration.refused_fields == peer.configuration.refused_fields
        and configuration.spec.cluster_access_secret == peer.configuration.spec.cluster_access_secret
    )
