"""Writes the status of RemoteClusterConfigurations, and the metrics that say the same."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from clustermeshd.controller.metrics import Metrics
from clustermeshd.controller.nodes import NodeMirror
from clustermeshd.controller.peer import Peer
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from clustermeshd.model.errors import Refused
from clustermeshd.plan import peerstatus


class StatusWriter:
    """One status per peer, written only when it says something new."""

    def __init__(self, client: Client, peers: Mapping[str, Peer], nodes: NodeMirror, metrics: Metrics) -> None:
        self._client = client
        self._peers = peers
        self._nodes = nodes
        self._metrics = metrics

    async def reconcile(self, name: str, configuration: objects.RemoteClusterConfiguration) -> None:
        """Writes the status of one peer if it differs from what ``configuration`` carries."""
        peer = self._peers.get(name)
        if peer is None:
            return
        facts = self._facts(peer)
        self._measure(peer, facts)
        if facts.error is None and not facts.synced and configuration.status.conditions:
            return  # a controller that has just started knows nothing yet; what the last one knew stands
        wanted = peerstatus.status(configuration, facts, time=_now())
        if wanted == configuration.status:
            return
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "RemoteClusterConfiguration",
            "metadata": {"name": name, "uid": configuration.metadata.uid},
            "status": msgspec.to_builtins(wanted),
        }
        await self._client.apply(
            resources.REMOTE_CLUSTER_CONFIGURATIONS,
            body,
            manager=names.CONTROLLER_MANAGER,
            name=name,
            subresource="status",
        )

    def _facts(self, peer: Peer) -> peerstatus.PeerFacts:
        connection, newest = peer.connection, peer.credentials
        plan = self._nodes.plans.get(peer.name)
        expiry = newest.access.expires_at if newest is not None else None
        before = peer.configuration.status
        synced = connection is not None
        fresh = synced and peer.error is None
        return peerstatus.PeerFacts(
            error=peer.error,
            identified=bool(peer.cluster_id),
            synced=synced,
            cluster_id=peer.cluster_id,
            server_version=newest.server_version if newest is not None else "",
            nodes=len(plan.nodes) if plan is not None else 0,
            services=len(connection.service_informer.store) if connection is not None else 0,
            endpoint_slices=len(connection.slice_informer.store) if connection is not None else 0,
            refused=tuple(plan.refused) if plan is not None else (),
            last_sync=_now() if fresh and not _was_synced(before) else "",
            credential_expiry=_rfc3339(expiry) if expiry is not None else "",
            credential=connection.access.fingerprint if connection is not None else "",
        )

    def _measure(self, peer: Peer, facts: peerstatus.PeerFacts) -> None:
        name = peer.name
        self._metrics.connection_status.labels(name).set(_connection_status(facts))
        for kind, count in (
            ("Node", facts.nodes),
            ("Service", facts.services),
            ("EndpointSlice", facts.endpoint_slices),
        ):
            self._metrics.objects.labels(name, kind).set(count)
        self._metrics.refused.remove_by_labels({"remote_cluster_name": name})
        for reason, count in Tally(refused.reason for refused in facts.refused).items():
            self._metrics.refused.labels(name, reason).set(count)
        newest = peer.credentials
        if newest is not None and newest.access.expires_at is not None:
            left = (newest.access.expires_at - datetime.now(UTC)).total_seconds()
            self._metrics.credential_seconds.labels(name).set(left)


def _connection_status(facts: peerstatus.PeerFacts) -> int:
    if isinstance(facts.error, Refused):
        return 5
    if facts.synced:
        return 2 if facts.error is None else 3
    return 1 if facts.error is None else 0


def _was_synced(status: objects.RemoteClusterConfigurationStatus) -> bool:
    return any(c.type == "Synced" and c.status == "True" for c in status.conditions or ())


def _now() -> str:
    return _rfc3339(datetime.now(UTC))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
