"""Writes the status of RemoteClusterConfigurations, and the metrics and Events that say the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary, WeakSet

import msgspec

from clustermeshd.controller.connection import Connection
from clustermeshd.controller.events import Events
from clustermeshd.controller.metrics import Metrics
from clustermeshd.controller.nodes import NodeMirror
from clustermeshd.controller.peer import Peer
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from clustermeshd.model.errors import Refused
from clustermeshd.plan import peerstatus
from clustermeshd.plan.peerstatus import PeerFacts
from clustermeshd.plan.refusals import OWN_KIND, Refusals

_SETTLE_S = 10.0
_REST_S = 600.0  # between two Events for one reason
_LIMITS = {
    "Node": "nodes",
    "Service": "services",
    "Namespace": "services",
    "EndpointSlice": "endpointSlices",
    "Pod": "pods",
    "IPAMBlock": "pods",
}


class StatusWriter:
    """One status per peer, written only when it says something new."""

    def __init__(
        self,
        client: Client,
        peers: Mapping[str, Peer],
        nodes: NodeMirror,
        *,
        refused_endpoints: Callable[[str], Refusals],
        fence: Callable[[], None],
        is_settled: Callable[[], bool],
        events: Events,
        metrics: Metrics,
        cluster_id: Callable[[], str],
    ) -> None:
        """``is_settled`` says whether endpoints were judged by what is known now."""
        self._client = client
        self._peers = peers
        self._nodes = nodes
        self._refused_endpoints = refused_endpoints
        self._fence = fence
        self._is_settled = is_settled
        self._unsettled: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()  # since when
        self._settled: WeakSet[Connection] = WeakSet()  # one that is closed goes, with all that it holds
        self._warned: WeakKeyDictionary[Peer, frozenset[str]] = WeakKeyDictionary()
        self._events = events
        self._metrics = metrics
        self._cluster_id = cluster_id

    async def reconcile(self, name: str, configuration: objects.RemoteClusterConfiguration) -> None:
        """Writes the status of one peer if it differs from what ``configuration`` carries."""
        peer = self._peers.get(name)
        if peer is None:
            return
        facts = self._facts(peer)
        self._measure(peer, facts)
        if facts.error is None and not facts.synced and configuration.status.conditions:
            return  # a controller that has just started knows nothing yet; what the last one knew stands
        if facts.error is None and configuration.status.conditions and self._is_settling(peer):
            return
        await self._warn(peer, configuration, facts)
        if configuration.api_version != names.API_VERSION:
            return  # Calico's kind has no status
        wanted = peerstatus.status(configuration, facts, time=_now())
        if wanted == configuration.status:
            return
        body = {
            "apiVersion": names.API_VERSION,
            "kind": OWN_KIND,
            "metadata": {"name": name, "uid": configuration.metadata.uid},
            "status": msgspec.to_builtins(wanted),
        }
        self._fence()
        await self._client.apply(
            resources.REMOTE_CLUSTER_CONFIGURATIONS,
            body,
            manager=names.CONTROLLER_MANAGER,
            name=name,
            subresource="status",
        )

    def _is_settling(self, peer: Peer) -> bool:
        """Whether a connection is so new that its endpoints are still to be judged; for some seconds at most."""
        connection = peer.connection
        if connection is None or connection in self._settled:
            return False
        since = self._unsettled.setdefault(connection, time.monotonic())
        if not self._is_settled() and time.monotonic() - since < _SETTLE_S:
            return True
        self._settled.add(connection)
        return False

    async def _warn(self, peer: Peer, configuration: objects.RemoteClusterConfiguration, facts: PeerFacts) -> None:
        """One Event for each reason, with an example; none for other examples of what is known."""
        known = self._warned.get(peer, frozenset()) & facts.refused.counts.keys()
        told = {
            refused.reason: f"{refused.kind} {refused.name}: {refused.message}"
            for refused in facts.refused
            if refused.reason not in known
        }
        self._warned[peer] = known | told.keys()
        if isinstance(facts.error, Refused):
            told[facts.error.reason] = str(facts.error)
        version = configuration.api_version
        for reason, message in told.items():
            await self._events.warn(configuration, version, OWN_KIND, reason, message, rest_s=_REST_S)

    async def shadowed(self, configuration: objects.RemoteClusterConfiguration) -> None:
        """Tells that a configuration of Calico's does not count."""
        message = f"{names.API_VERSION} has a {OWN_KIND} of this name, which counts in place of this one"
        await self._events.warn(configuration, configuration.api_version, OWN_KIND, "NameTaken", message)

    def _facts(self, peer: Peer) -> PeerFacts:
        connection, newest, identified = peer.connection, peer.credentials, peer.identified
        plan = self._nodes.plans.get(peer.name)
        expiry = newest.access.expires_at if newest is not None else None
        before = peer.configuration.status
        fresh = connection is not None and peer.error is None
        blocks, pods = (connection.prefixes.blocks, connection.prefixes.pods) if connection else (None, None)
        return PeerFacts(
            error=peer.error,
            identified=identified is not None,
            is_mutual=connection.leads_to(self._cluster_id()) if connection is not None else None,
            synced=connection is not None,
            cluster_id=peer.cluster_id,
            server_version=identified.server_version if identified is not None else "",
            nodes=len(plan.nodes) if plan is not None else 0,
            services=len(connection.service_informer.store) if connection is not None else 0,
            endpoint_slices=len(connection.slice_informer.store) if connection is not None else 0,
            ipam_blocks=len(blocks.store) if blocks is not None else 0,
            pods=len(pods.store) if pods is not None else 0,
            refused=self._refused(peer),
            last_sync=_now() if fresh and not _was_synced(before) else "",
            last_event=_heard(connection, before) if connection is not None and not fresh else "",
            lag_s=connection.lag_s if connection is not None else None,
            credential_expiry=_rfc3339(expiry) if expiry is not None else "",
            credential=connection.access.fingerprint if connection is not None else "",
        )

    def _refused(self, peer: Peer) -> Refusals:
        made = self._refused_endpoints(peer.name)
        if peer.rules.problem is not None:
            made.add(OWN_KIND, peer.name, peer.rules.problem.reason, peer.rules.problem.found)
        if peer.secret_problem is not None:
            message = f"changes of the access Secret are not seen: {peer.secret_problem}"
            made.add(OWN_KIND, peer.name, reason="SecretNotWatched", message=message)
        if peer.connection is not None:
            for informer in peer.connection.informers:
                kind = informer.resource.kind
                examples = [
                    objects.RefusedObject(kind, key or "?", why.reason, f"{why.message}{_setting(kind, why.reason)}")
                    for key, why in informer.left_out
                ]
                made.merge(informer.left_out.counts, examples)
        plan = self._nodes.plans.get(peer.name)
        if plan is not None:
            made.merge(plan.refused.counts, plan.refused.examples)
        return made

    def _measure(self, peer: Peer, facts: PeerFacts) -> None:
        name, metrics = peer.name, self._metrics
        metrics.connection_status.labels(name).set(peerstatus.connection_status(facts))
        metrics.refused.remove_by_labels({"remote_cluster_name": name})
        for reason, count in facts.refused.counts.items():
            metrics.refused.labels(name, reason).set(count)
        connection, newest = peer.connection, peer.credentials
        if connection is not None:
            for informer in connection.informers:
                metrics.objects.labels(name, informer.resource.kind).set(len(informer.store))
                metrics.skipped.labels(name, informer.resource.kind).set(informer.skipped)
            age_s = connection.last_event_age_s
            metrics.event_age.labels(name).set(age_s)
            metrics.lag.labels(name).set(connection.lag_s)
            metrics.relists.labels(name).set(connection.relists)
        if newest is None or newest.access.expires_at is None:
            metrics.credential_seconds.remove_by_labels({"remote_cluster_name": name})
        else:
            left = (newest.access.expires_at - datetime.now(UTC)).total_seconds()
            metrics.credential_seconds.labels(name).set(left)


def _setting(kind: str, reason: str) -> str:
    """Which field of the configuration an object ran into."""
    fields = {"LimitReached": _LIMITS[kind], "ObjectTooLarge": "objectBytes", "BudgetReached": "totalBytes"}
    return f" (spec.import.limits.{fields[reason]})" if reason in fields else ""


def _heard(connection: Connection, before: objects.RemoteClusterConfigurationStatus) -> str:
    """When a lost peer last said anything; a time that was told stays, if it is the same by the second or two."""
    moment = datetime.now(UTC) - timedelta(seconds=connection.last_event_age_s)
    if before.last_event_time is not None:
        told = datetime.fromisoformat(before.last_event_time)
        if abs((moment - told).total_seconds()) < 2:
            return before.last_event_time
    return _rfc3339(moment)


def _was_synced(status: objects.RemoteClusterConfigurationStatus) -> bool:
    return any(c.type == "Synced" and c.status == "True" for c in status.conditions or ())


def _now() -> str:
    return _rfc3339(datetime.now(UTC))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
