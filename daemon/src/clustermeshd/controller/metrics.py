"""Metrics of the controller; label sets are fixed, and the only open label is the name of a peer."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Collectors in a registry of their own (no process-wide state, so tests may make many)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Calico Enterprise's metric and values: 0 not connecting, 1 connecting, 2 in sync, 3 resync in progress,
        # 5 configuration incomplete; its 4 (restart needed) never happens here
        # (tigera/docs: reference/component-resources/typha/prometheus.mdx)
        self.connection_status = Gauge(
            "remote_cluster_connection_status",
            "Connection to a remote cluster: 0 not connecting, 1 connecting, 2 in sync, 3 resync, 5 incomplete",
            ["remote_cluster_name"],
            registry=self.registry,
        )
        self.credential_seconds = Gauge(
            "clustermesh_peer_credential_expiry_seconds",
            "Seconds until the credential of a peer expires",
            ["remote_cluster_name"],
            registry=self.registry,
        )
        self.refused = Gauge(
            "clustermesh_peer_refused_objects",
            "Objects of a peer that were not admitted",
            ["remote_cluster_name", "reason"],
            registry=self.registry,
        )
        self.objects = Gauge(
            "clustermesh_peer_objects",
            "Objects read from a peer",
            ["remote_cluster_name", "kind"],
            registry=self.registry,
        )
        self.federated = Gauge(
            "clustermesh_federated_services", "Services that carry the annotation", registry=self.registry
        )
        self.federation_clusters = Gauge(
            "clustermesh_federation_clusters",
            "Clusters whose Services are known, ours included",
            registry=self.registry,
        )
        self.federation_in_sync = Gauge(
            "clustermesh_federation_in_sync",
            "1 while nothing that is known waits to be written",
            registry=self.registry,
        )
        self.skipped = Gauge(
            "clustermesh_peer_skipped_objects",
            "Objects of a peer that were left out since they could not be read or were too many, counted each time",
            ["remote_cluster_name", "kind"],
            registry=self.registry,
        )
        self.event_age = Gauge(
            "clustermesh_peer_last_event_age_seconds",
            "Seconds since a peer last said anything",
            ["remote_cluster_name"],
            registry=self.registry,
        )
        self.lag = Gauge(
            "clustermesh_peer_lag_seconds",
            "How old the facts of a peer may be: of the kind that is furthest behind",
            ["remote_cluster_name"],
            registry=self.registry,
        )
        self.relists = Gauge(
            "clustermesh_peer_relists",
            "Complete lists of a peer after the first, all kinds together, by the connection in force",
            ["remote_cluster_name"],
            registry=self.registry,
        )
        self.leader = Gauge("clustermesh_controller_leader", "1 while this replica leads", registry=self.registry)
        self.reconcile = Histogram(
            "clustermesh_controller_reconcile_seconds", "Time of a reconcile", ["what"], registry=self.registry
        )
        self.errors = Counter(
            "clustermesh_controller_errors_total", "Failed reconciles", ["what", "reason"], registry=self.registry
        )

    def forget(self, peer: str) -> None:
        """Drops the series of a peer that is gone."""
        for metric in (
            self.connection_status,
            self.credential_seconds,
            self.refused,
            self.objects,
            self.skipped,
            self.event_age,
            self.lag,
            self.relists,
        ):
            metric.remove_by_labels({"remote_cluster_name": peer})
