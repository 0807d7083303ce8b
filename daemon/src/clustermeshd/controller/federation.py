"""Federates Services: keeps our EndpointSlices and Endpoints of every Service that carries the annotation.

A change of any Service or slice concerns the federated Services that select it, found by an index, and each of those
is brought up to date by itself, by a few workers; the queue between is fair among clusters. Slices are written at
once, since proxies read them. The Endpoints object is there for people and is written at a bounded rate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from heapq import nsmallest

import msgspec

from clustermeshd.controller.connection import Connection
from clustermeshd.controller.events import Events
from clustermeshd.controller.facts import ServiceFacts, ServiceName
from clustermeshd.controller.local import LocalFacts
from clustermeshd.controller.metrics import Metrics
from clustermeshd.controller.peer import Peer
from clustermeshd.controller.queue import FairQueue
from clustermeshd.controller.retries import Retries
from clustermeshd.controller.written import ANNOTATIONS, Written, digest, is_written
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.writer import Writer
from clustermeshd.model import names
from clustermeshd.model.addresses import Ranges
from clustermeshd.model.errors import MeshError, Refused
from clustermeshd.plan import federation
from clustermeshd.plan.endpoints import endpoints
from clustermeshd.plan.federation import Backing, Federated
from clustermeshd.plan.matching import Matches
from clustermeshd.plan.peerstatus import reason_of
from clustermeshd.plan.refusals import EXAMPLES, Refusals
from clustermeshd.plan.staleness import Freshness, Policy, annotated, policy_of
from clustermeshd.runtime.rate import Rate

_LOG = logging.getLogger(__name__)

_WORKERS = 8
_PAUSE_S = 0.1  # between two turns of one Service
_ENDPOINTS_PER_S = 20.0
_ENDPOINTS_BURST = 200
_TICK_S = 1.0
_LOCAL = ""

_Backer = tuple[str, str]  # cluster and name of a backing Service


class _Remote:
    """What is in force of one peer: the connection whose nodes were planned, and the addresses it may give."""

    def __init__(self, now: float) -> None:
        self.connection: Connection | None = None
        self.owns = Ranges(())
        self.owned: dict[ServiceName, dict[str, objects.EndpointSlice]] = {}  # as Backing has it, by Service
        self.services: set[ServiceName] = set()
        self.freshness = Freshness(now)
        self.stale: frozenset[Policy] = frozenset()  # policies that apply now


class Federator:
    """Owner of the slices and Endpoints of federated Services."""

    def __init__(
        self,
        local: LocalFacts,
        peers: Mapping[str, Peer],
        *,
        client: Client,
        writer: Writer,
        events: Events,
        metrics: Metrics,
        still_admits: Callable[[str, Iterable[str], int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``still_admits`` says whether a peer that is not read may keep addresses, of a family, that it had."""
        self._local = local
        self._peers = peers
        self._client = client
        self._writer = writer
        self._events = events
        self._metrics = metrics
        self._still_admits = still_admits
        self._clock = clock
        self._queue: FairQueue[ServiceName] = FairQueue(pause_s=_PAUSE_S, clock=clock)
        self._index: defaultdict[str, Matches[str, _Backer]] = defaultdict(Matches)
        self._federated: set[ServiceName] = set()
        self._policies: dict[ServiceName, Policy] = {}
        self._complaints: dict[ServiceName, Refused] = {}
        self._remotes: dict[str, _Remote] = {}
        self._refused: dict[ServiceName, dict[str, tuple[int, list[str]]]] = {}  # by cluster; the first addresses
        self._retries: Retries[ServiceName] = Retries(client, lambda name: self._queue.put(_LOCAL, name), clock=clock)
        self._due: dict[ServiceName, None] = {}  # Endpoints objects that wait for their turn
        self._rate = Rate(_ENDPOINTS_PER_S, _ENDPOINTS_BURST, clock=clock)
        self._busy = 0
        metrics.federated.set_function(lambda: len(self._federated))
        metrics.federation_clusters.set_function(self._known_clusters)
        metrics.federation_in_sync.set_function(lambda: float(self.is_idle))

    # ---- what others ask

    @property
    def is_idle(self) -> bool:
        """Whether everything that is known was written."""
        return not len(self._queue) and not self._busy and not self._due

    def refused(self, cluster: str) -> Refusals:
        """Endpoints of a peer that were not admitted; it may give any number of such, and this is asked all the time.

        Of each Service those are named that came first.
        """
        made = Refusals()
        found = {name: by[cluster] for name, by in self._refused.items() if cluster in by}
        for name in nsmallest(EXAMPLES, found):
            count, first = found[name]
            key = f"{name.namespace}/{name.name}"
            examples = [
                objects.RefusedObject(
                    kind="Endpoint",
                    name=key,
                    reason="ForeignAddress",
                    message=f"{address[:100]} is no address of the peer's admitted pods, nodes or service prefixes",
                )
                for address in first
            ]
            made.merge({"ForeignAddress": count}, examples)
        others = sum(count for count, _ in found.values()) - made.total
        made.merge({"ForeignAddress": others} if others else {}, ())
        return made

    def _known_clusters(self) -> float:
        return 1.0 + sum(remote.connection is not None for remote in self._remotes.values())

    # ---- what changed

    def start(self) -> None:
        """Takes in everything of the local cluster, which has listed completely."""
        self._local.services.settle()
        for name in self._local.services.services:
            self.changed(_LOCAL, name)
        for name in self._local.written.services():
            self._queue.put(_LOCAL, name)
        for thing in self._local.endpoints.store.values():
            self.output_changed(ServiceName(thing.metadata.namespace or "", thing.metadata.name))

    def changed(self, cluster: str, name: ServiceName) -> None:
        """A Service of a cluster, or one of its slices, is not what it was."""
        facts = self._facts(cluster)
        service = facts.services.get(name) if facts is not None else None
        labels = None
        if service is not None and self._admits(cluster, name.namespace):
            labels = self._labels(cluster, service)
        if cluster in self._remotes:
            known = self._remotes[cluster].services
            (known.discard if labels is None else known.add)(name)
        concerned = self._index[name.namespace].set_labels((cluster, name.name), labels)
        if cluster == _LOCAL:
            self._follow(name, service)
        if self._index[name.namespace].is_empty:
            del self._index[name.namespace]  # a peer may name ever new namespaces
        for federated in concerned:
            self._queue.put(cluster, ServiceName(name.namespace, federated))

    def output_changed(self, name: ServiceName) -> None:
        """A slice or Endpoints object of ours is not what we wrote last."""
        self._queue.put(_LOCAL, name)

    def in_force(self, cluster: str, connection: Connection | None, owns: Ranges) -> None:
        """From now on a peer's facts are those of ``connection``, as far as their addresses are in ``owns``."""
        remote = self._remotes.get(cluster)
        if remote is None:
            remote = self._remotes[cluster] = _Remote(self._clock())
        if connection is not None and connection is not remote.connection:
            connection.services.settle()
        remote.connection, remote.owns, remote.owned = connection, owns, {}
        self._recheck(cluster)

    def forget(self, cluster: str) -> None:
        """A peer is no more."""
        self._remotes[cluster] = self._remotes.get(cluster) or _Remote(self._clock())
        self._remotes[cluster].connection = None
        self._recheck(cluster)
        del self._remotes[cluster]

    def recheck_all(self) -> None:
        """Looks at everything again: what no event told."""
        for name in self._federated | self._local.written.services():
            self._queue.put(_LOCAL, name)

    def _recheck(self, cluster: str) -> None:
        facts = self._facts(cluster)
        for name in self._remotes[cluster].services | set(facts.services if facts else ()):
            self.changed(cluster, name)
        if facts is None:  # what stands of it is judged by what is asked for now
            for name in self._local.written.services():
                self._queue.put(cluster, name)

    def _facts(self, cluster: str) -> ServiceFacts | None:
        if cluster == _LOCAL:
            return self._local.services
        remote = self._remotes.get(cluster)
        return remote.connection.services if remote is not None and remote.connection is not None else None

    def _admits(self, cluster: str, namespace: str) -> bool:
        peer = self._peers.get(cluster)
        return cluster == _LOCAL or (peer is not None and peer.admits_namespace(namespace))

    def _labels(self, cluster: str, service: objects.Service) -> Mapping[str, str] | None:
        """What selectors see of a backing Service; None for one that backs nothing."""
        labels = federation.backing_labels(service, cluster)
        if labels is None or cluster == _LOCAL:
            return labels
        return {**self._peers[cluster].visible_labels(labels), names.REMOTE_CLUSTER_NAME: cluster}

    def _follow(self, name: ServiceName, service: objects.Service | None) -> None:
        """Keeps what the annotations of a local Service say."""
        was = name in self._federated
        selector = None
        self._complaints.pop(name, None)
        self._policies.pop(name, None)
        if service is not None and federation.selector_text(service) is not None:
            complaint = federation.objection(service)
            try:
                selector = federation.selector_of(service)
                policy = annotated(service)
                if policy is not None:
                    self._policies[name] = policy
            except Refused as error:
                complaint = error
            if complaint is not None:
                self._complaints[name] = complaint
        self._index[name.namespace].set_selector(name.name, selector)
        (self._federated.discard if selector is None else self._federated.add)(name)
        if was or selector is not None or name in self._complaints:
            self._queue.put(_LOCAL, name)

    # ---- work

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work())
            group.create_task(self._write_due_endpoints())
            group.create_task(self._watch_freshness())

    async def _work(self) -> None:
        while True:
            name = await self._queue.take()
            self._busy += 1
            try:
                await self._attempt(name)
            finally:
                self._busy -= 1
                self._queue.done(name)

    async def _attempt(self, name: ServiceName) -> None:
        started = time.monotonic()
        try:
            await self._reconcile(name)
        except MeshError as error:
            self._metrics.errors.labels("services", reason_of(error)).inc()
            log = _LOG.warning if self._retries.failed(name, error) else _LOG.debug
            log("Service %s/%s: %s", name.namespace, name.name, error)
        else:
            self._retries.succeeded(name)
        self._metrics.reconcile.labels("services").observe(time.monotonic() - started)

    async def _reconcile(self, name: ServiceName) -> None:
        service = self._local.services.services.get(name)
        if service is not None and (complaint := self._complaints.get(name)) is not None:
            await self._events.warn(service, "v1", "Service", _event_reason(complaint), complaint.found)
        if service is None or name not in self._federated:
            self._refused.pop(name, None)
            for remote in self._remotes.values():
                remote.owned.pop(name, None)
            await self._clear(name)
            return
        made = await self._plan(name, service)
        self._refused.pop(name, None)
        if made.refused:
            self._refused[name] = {
                cluster: (len(addresses), nsmallest(EXAMPLES, addresses))
                for cluster, addresses in made.refused.items()
            }
        actual = self._local.written.of(name)
        refused: Refused | None = None
        changed = False
        for piece in made.slices.values():
            try:
                changed |= await self._write(piece, actual.get(piece.metadata.name))
            except Refused as error:  # by our API server: stops no other slice
                refused = refused or error
        for gone in [written for key, written in actual.items() if key not in made.slices]:
            changed = True
            self._local.written.forget(gone)
            await self._writer.remove(resources.ENDPOINT_SLICES, gone)
        if (changed and len(self._queue)) or not self._rate.has_room:
            self._due[name] = None  # slices that wait go first
        else:
            await self._write_endpoints(name, service, made)
        if refused is not None:
            raise refused

    async def _write(self, piece: objects.EndpointSlice, actual: Written | None) -> bool:
        """Writes a slice unless it is so already; whether it did."""
        content = self._local.written.expect(piece)
        if is_written(piece, content, actual):
            return False
        trigger = piece.annotations.get(names.LAST_CHANGE_TRIGGER)
        if actual is not None and actual.annotations.get(names.LAST_CHANGE_TRIGGER) == trigger:
            # what changed is not what the origin changed then: no latency can be told from its time
            others = {key: value for key, value in piece.annotations.items() if key != names.LAST_CHANGE_TRIGGER}
            meta = msgspec.structs.replace(piece.metadata, annotations=others or None)
            piece = msgspec.structs.replace(piece, metadata=meta)
        version = await self._writer.replace(resources.ENDPOINT_SLICES, piece, actual=actual, annotations=ANNOTATIONS)
        self._local.written.wrote(piece, version)
        return True

    async def _plan(self, name: ServiceName, service: objects.Service) -> Federated:
        now = self._clock()
        found = [await self._kept(name, service, cluster, now) for cluster in self._unknown()]
        unknown = self._unknown()  # not those that were removed, or read, meanwhile
        kept = [backing for backing in found if backing is not None and backing.cluster in unknown]
        backers: defaultdict[str, list[str]] = defaultdict(list)
        index = self._index.get(name.namespace)
        for cluster, backer in index.selected(name.name) if index is not None else ():
            backers[cluster].append(backer)
        backings = []
        for cluster, members in sorted(backers.items()):
            facts = self._facts(cluster)
            if facts is None:
                continue
            pieces = [s for b in sorted(members) for s in facts.slices(ServiceName(name.namespace, b))]
            if cluster == _LOCAL:
                backings.append(Backing(cluster, pieces))
            else:
                remote = self._remotes[cluster]
                stale = self._stale(name, cluster, now)
                known = remote.owned.get(name, {})
                remote.owned[name] = owned = {s.key: known[s.key] for s in pieces if s.key in known}
                backings.append(Backing(cluster, pieces, remote.owns.holds_all, stale, owned))
        return federation.plan(service, backings + kept, self._local.nodes.store.keys())

    def _unknown(self) -> list[str]:
        """Peers that have not been read in this process's life."""
        return sorted(c for c, peer in self._peers.items() if self._facts(c) is None and not peer.is_disowned)

    async def _kept(self, name: ServiceName, service: objects.Service, cluster: str, now: float) -> Backing | None:
        """What a peer gave before it was lost and we were started: it stays, as far as what is asked for lets it."""
        written = [w for w in self._local.written.of(name).values() if w.labels.get(names.REMOTE_CLUSTER) == cluster]
        selector = federation.selector_of(service)
        if not written or selector is None or not federation.may_select(selector, cluster):
            return None
        peer = self._peers.get(cluster)
        if peer is None or not peer.rules.may_admit(name.namespace):
            return None
        found, _ = await self._client.list(
            resources.ENDPOINT_SLICES,
            name.namespace,
            label_selector=f"{names.SERVICE_NAME}={name.name},{names.REMOTE_CLUSTER}={cluster}",
        )
        return Backing(
            cluster,
            found,
            partial(self._still_admits, cluster),
            self._stale(name, cluster, now),
            is_written=True,
            waits=self._policy(name, cluster).stale,
        )

    def _stale(self, name: ServiceName, cluster: str, now: float) -> federation.Stale:
        remote = self._remotes.get(cluster)
        return "" if remote is None else self._policy(name, cluster).at(remote.freshness.lost_s(now))

    def _policy(self, name: ServiceName, cluster: str) -> Policy:
        peer = self._peers.get(cluster)
        asked = self._policies.get(name)
        return asked or (Policy("") if peer is None else policy_of(peer.configuration.spec.staleness))

    async def _clear(self, name: ServiceName) -> None:
        """Removes what is ours of a Service that is not federated."""
        for written in list(self._local.written.of(name).values()):
            self._local.written.forget(written)
            await self._writer.remove(resources.ENDPOINT_SLICES, written)
        ours = self._local.endpoints.store.get(f"{name.namespace}/{name.name}")
        if ours is not None:
            await self._writer.remove(resources.ENDPOINTS, ours)
        self._due.pop(name, None)

    # ---- Endpoints

    async def _write_endpoints(self, name: ServiceName, service: objects.Service, made: Federated) -> None:
        """Writes the object if it says something else."""
        desired = endpoints(service, made.slices.values())
        actual = self._local.endpoints.store.get(f"{name.namespace}/{name.name}")
        self._due.pop(name, None)
        if not is_written(desired, digest(desired), actual):
            self._rate.take()
            await self._writer.replace(resources.ENDPOINTS, desired, actual=actual, annotations=ANNOTATIONS)

    async def _write_due_endpoints(self) -> None:
        while True:
            await asyncio.sleep(1 / _ENDPOINTS_PER_S)
            while self._due and self._rate.has_room:
                name = next(iter(self._due))
                del self._due[name]
                await asyncio.sleep(0)  # one that is as it should be takes no token: others' turn, too
                service = self._local.services.services.get(name)
                if service is None or name not in self._federated:
                    continue
                try:
                    await self._write_endpoints(name, service, await self._plan(name, service))
                except MeshError as error:
                    _LOG.debug("Endpoints %s/%s: %s", name.namespace, name.name, error)
                    self._queue.put(_LOCAL, name)

    # ---- staleness

    async def _watch_freshness(self) -> None:
        while True:
            self._look_at_freshness()
            await asyncio.sleep(_TICK_S)

    def _look_at_freshness(self) -> None:
        now = self._clock()
        for cluster, peer in self._peers.items():
            remote = self._remotes.get(cluster)
            if remote is None:
                remote = self._remotes[cluster] = _Remote(now)
            remote.freshness.observe(is_current=peer.connection is not None and peer.connection.error is None, now=now)
            lost_s = remote.freshness.lost_s(now)
            policies = {policy_of(peer.configuration.spec.staleness), *self._policies.values()}
            stale = frozenset(policy for policy in policies if policy.at(lost_s))
            if stale != remote.stale:
                remote.stale = stale
                state = f"has not been read for {lost_s:.0f} s" if lost_s else "is read again"
                _LOG.info("RemoteClusterConfiguration(%s) %s: endpoints follow spec.staleness", cluster, state)
                for name in self._federated:
                    self._queue.put(cluster, name)


def _event_reason(complaint: Refused) -> str:
    return "InvalidServiceSelector" if complaint.reason == "InvalidSelector" else complaint.reason
