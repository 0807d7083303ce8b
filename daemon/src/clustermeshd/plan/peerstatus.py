"""What the status of a RemoteClusterConfiguration says, from what is known about the peer."""

from __future__ import annotations

from dataclasses import dataclass, field

from clustermeshd.kube import objects
from clustermeshd.model.errors import MeshError, Refused
from clustermeshd.plan.conditions import Verdict, merge
from clustermeshd.plan.refusals import OWN_KIND, Refusals

ONE_WAY = "one direction only: no RemoteClusterConfiguration there leads to this cluster"
"""Said of a peer that does not read this cluster."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """Facts about a peer; ``last_sync``, ``last_event`` and ``credential_expiry`` are RFC 3339 times or empty.

    ``credential`` is the fingerprint of what the synced connection authenticates with. ``is_mutual`` is whether the
    peer reads this cluster too, None where that is not known.
    """

    error: MeshError | None = None
    identified: bool = False
    is_mutual: bool | None = None
    synced: bool = False
    cluster_id: str = ""
    server_version: str = ""
    nodes: int = 0
    services: int = 0
    endpoint_slices: int = 0
    ipam_blocks: int = 0
    pods: int = 0
    refused: Refusals = field(default_factory=Refusals)
    last_sync: str = ""
    last_event: str = ""
    lag_s: float | None = None
    credential_expiry: str = ""
    credential: str = ""


def verdicts(configuration: objects.RemoteClusterConfiguration, facts: PeerFacts) -> tuple[Verdict, ...]:
    """Connected, Synced, Routed and Degraded."""
    return _connected(facts), _synced(facts), _routed(configuration, facts), _degraded(facts)


def _connected(facts: PeerFacts) -> Verdict:
    if facts.error is not None:
        return Verdict("Connected", False, reason_of(facts.error), str(facts.error))
    if not facts.identified:
        return Verdict("Connected", None, "Connecting", "waiting for the first answer")
    return Verdict("Connected", True, "Connected", f"Kubernetes {facts.server_version}")


def _synced(facts: PeerFacts) -> Verdict:
    if not facts.synced:
        return Verdict("Synced", False, "NotListed", "not every kind has been listed yet; nothing is removed")
    if facts.error is not None:
        return Verdict("Synced", False, "Stale", "the last known state is kept")
    # whoever rotates credentials waits for this digest before the old one is revoked
    credential = f", credential {facts.credential[:16]}" if facts.credential else ""
    return Verdict("Synced", True, "InSync", f"{facts.nodes} nodes, {facts.services} services{credential}")


def _routed(configuration: objects.RemoteClusterConfiguration, facts: PeerFacts) -> Verdict:
    if configuration.spec.sync_options.overlay_routing_mode != "Enabled":
        told = "routing is left to the underlay"
        return Verdict("Routed", None, "OverlayDisabled", f"{told}; {ONE_WAY}" if facts.is_mutual is False else told)
    if facts.nodes == 0:
        return Verdict("Routed", False, "NoNodes", "no node of this peer is admitted yet")
    if facts.is_mutual is False:
        return Verdict("Routed", False, "OneWay", f"{ONE_WAY}, so its nodes drop what comes from here")
    return Verdict("Routed", True, "OverlayEnabled", f"{facts.nodes} nodes are given to the agents")


def _degraded(facts: PeerFacts) -> Verdict:
    if facts.refused.total:
        first = facts.refused.examples[0]
        if first.kind == OWN_KIND:
            return Verdict("Degraded", True, first.reason, first.message)
        text = f"{facts.refused.total} objects refused, for example {first.kind} {first.name}: {first.message}"
        return Verdict("Degraded", True, "ObjectsRefused", text)
    return Verdict("Degraded", False, "NothingRefused")


def connection_status(facts: PeerFacts) -> int:
    """Calico's number for the state of a peer; never 4, since nothing ever needs a restart."""
    if isinstance(facts.error, Refused):
        return 5
    if facts.synced:
        return 2 if facts.error is None else 3
    return 1 if facts.error is None else 0


def reason_of(error: MeshError) -> str:
    """Stable CamelCase reason of an error: its own, or the name of its class."""
    return error.reason if isinstance(error, Refused) else type(error).__name__


_LAGS = (0, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200)
_DAY = 86400


def _rounded(lag_s: float) -> int:
    """A lag in few steps, rounded down: what grows all the time is not to be written all the time."""
    return int(lag_s) // _DAY * _DAY or max(step for step in _LAGS if step <= max(0.0, lag_s))


def status(
    configuration: objects.RemoteClusterConfiguration, facts: PeerFacts, *, time: str
) -> objects.RemoteClusterConfigurationStatus:
    """The whole status; equal facts give an equal status whatever the time, so that nothing is written for nothing."""
    before = configuration.status
    generation = configuration.metadata.generation
    return objects.RemoteClusterConfigurationStatus(
        observed_generation=generation,
        cluster_id=facts.cluster_id or before.cluster_id,
        server_version=facts.server_version or before.server_version,
        conditions=merge(before.conditions, verdicts(configuration, facts), time=time, generation=generation),
        counts=objects.RemoteClusterCounts(
            nodes=facts.nodes,
            services=facts.services,
            endpoint_slices=facts.endpoint_slices,
            ipam_blocks=facts.ipam_blocks,
            pods=facts.pods,
            refused=facts.refused.total,
        ),
        last_sync_time=facts.last_sync or before.last_sync_time,
        last_event_time=facts.last_event or None,
        lag_seconds=None if facts.lag_s is None else _rounded(facts.lag_s),
        credential_expiry_time=facts.credential_expiry or None,
        refused=facts.refused.examples or None,
    )
