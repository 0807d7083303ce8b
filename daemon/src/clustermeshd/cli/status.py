"""``clustermesh status``: peers, nodes and federated Services of the mesh as this cluster sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from clustermeshd.cli import services, session
from clustermeshd.cli.fixes import fix
from clustermeshd.cli.output import Document, Problem, is_well, problem_lines, table
from clustermeshd.cli.service_facts import ServiceRow
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Forbidden, NotFound
from clustermeshd.model import names
from clustermeshd.plan.overlay_status import SILENT_S

EXPIRY_WARNING = timedelta(days=7)
_LEASE_GRACE_S = 60  # clocks of people's machines differ from the leader's


class PeerRow(Document, frozen=True):
    """One RemoteClusterConfiguration; conditions are True, False or Unknown."""

    name: str
    connected: str
    synced: str
    overlay: str
    nodes: int
    services: int
    refused: int
    server_version: str
    cluster_id: str = msgspec.field(name="clusterID")
    last_sync_time: str | None
    credential_expiry_time: str | None


class NodeRow(Document, frozen=True):
    """One MeshNode: what its agent says."""

    name: str
    ready: str
    devices: dict[str, int]  # name -> MTU, bytes
    wanted_routes: dict[str, int]  # peer -> count
    programmed_routes: dict[str, int]
    paths: dict[str, int] | None  # state -> count; None where the agent does not probe
    problems: int
    agent_version: str


class ServiceCounts(Document, frozen=True):
    federated: int
    with_problems: int


class Status(Document, frozen=True):
    """The whole answer; ``well`` is what the exit status says."""

    well: bool
    server: str
    peers: tuple[PeerRow, ...]
    nodes: tuple[NodeRow, ...]
    services: ServiceCounts
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    peers: list[objects.RemoteClusterConfiguration]
    mesh_nodes: list[objects.MeshNode]
    nodes: list[objects.Node] | None  # None: not ours to read
    lease: objects.Lease | None
    federated: list[ServiceRow]


async def read(client: Client) -> Status:
    """The mesh as the local API server has it, now."""
    peers = await session.peers(client)
    (mesh_nodes, _), nodes, lease, federated = await asyncio.gather(
        client.list(resources.MESH_NODES), _nodes(client), _lease(client), services.read(client, None, peers)
    )
    facts = _Facts(peers, mesh_nodes, nodes, lease, list(federated.services))
    problems = tuple(_problems(facts, datetime.now(UTC)))
    return Status(
        well=is_well(problems),
        server=client.server,
        peers=tuple(map(_peer_row, peers)),
        nodes=tuple(_node_row(node) for node in sorted(mesh_nodes, key=lambda n: n.metadata.name)),
        services=ServiceCounts(
            federated=len(facts.federated), with_problems=sum(1 for s in facts.federated if s.problems)
        ),
        problems=problems,
    )


async def _nodes(client: Client) -> list[objects.Node] | None:
    try:
        return (await client.list(resources.NODES))[0]
    except Forbidden:
        return None


async def _lease(client: Client) -> objects.Lease | None:
    try:
        return await client.get(resources.LEASES, names.CONTROLLER_LEASE, names.NAMESPACE)
    except (NotFound, Forbidden):
        return None


def condition(thing: tuple[objects.Condition, ...] | None, name: str) -> objects.Condition:
    """The condition of a type; Unknown where nobody has said anything."""
    return next((c for c in thing or () if c.type == name), objects.Condition(name, "Unknown", "NeverSeen"))


def _peer_row(peer: objects.RemoteClusterConfiguration) -> PeerRow:
    counts = peer.status.counts or objects.RemoteClusterCounts()
    return PeerRow(
        name=peer.metadata.name,
        connected=condition(peer.status.conditions, "Connected").status,
        synced=condition(peer.status.conditions, "Synced").status,
        overlay=peer.spec.sync_options.overlay_routing_mode,
        nodes=counts.nodes,
        services=counts.services,
        refused=counts.refused,
        server_version=peer.status.server_version,
        cluster_id=peer.status.cluster_id,
        last_sync_time=peer.status.last_sync_time,
        credential_expiry_time=peer.status.credential_expiry_time,
    )


def _node_row(node: objects.MeshNode) -> NodeRow:
    paths = node.status.paths
    return NodeRow(
        name=node.metadata.name,
        ready=condition(node.status.conditions, "Ready").status,
        devices={d.name: d.mtu for d in node.status.devices or ()},
        wanted_routes={p.name: p.wanted_routes for p in node.status.peers or ()},
        programmed_routes={p.name: p.programmed_routes for p in node.status.peers or ()},
        paths=None
        if paths is None
        else {
            "reachable": paths.reachable,
            "degraded": paths.degraded,
            "blackHoled": paths.black_holed,
            "unreachable": paths.unreachable,
            "unknown": paths.unknown,
        },
        problems=len(node.status.problems or ()) + (len(paths.problems) if paths is not None else 0),
        agent_version=node.status.agent_version,
    )


# ---- problems


def _problems(facts: _Facts, now: datetime) -> Iterator[Problem]:
    if not facts.peers:
        told = "there is no RemoteClusterConfiguration, so this cluster reads no other"
        yield Problem("error", "mesh", "NoPeers", told, "run mesh.yml, or apply one (docs/cli.md)")
    yield from lease_problems(facts.lease, now)
    for peer in facts.peers:
        yield from peer_problems(peer, now)
    for node in facts.mesh_nodes:
        yield from node_problems(node, now)
    yield from _missing_agents(facts)
    for row in facts.federated:
        yield from (p for p in row.problems if p.reason != "ClusterStale")  # the peer's own line says it


def lease_problems(lease: objects.Lease | None, now: datetime) -> Iterator[Problem]:
    """A Lease that nobody renews: then every status is a thing of the past. No Lease says nothing (one replica)."""
    renewed = parse_time(lease.spec.renew_time) if lease is not None else None
    if lease is None or renewed is None:
        return
    silent_s = (now - renewed).total_seconds()
    if silent_s > (lease.spec.lease_duration_seconds or 15) + _LEASE_GRACE_S:
        told = f"the Lease was renewed {silent_s:.0f} s ago, by {lease.spec.holder_identity or 'nobody'}"
        yield Problem("error", "controller", "NotLeading", told, fix("NotLeading"))


def peer_problems(peer: objects.RemoteClusterConfiguration, now: datetime) -> Iterator[Problem]:
    """What the controller says of a peer, and a credential that ends soon."""
    name = f"peer {peer.metadata.name}"
    connected, synced = (condition(peer.status.conditions, kind) for kind in ("Connected", "Synced"))
    if connected.status != "True":  # what the others say follows from it
        told = connected.message or "no controller has said anything about it"
        yield Problem("error", name, connected.reason, told, fix(connected.reason))
    else:
        for found in (synced, condition(peer.status.conditions, "Routed")):
            if found.status == "False":
                yield Problem("error", name, found.reason, found.message, fix(found.reason))
    for refused in peer.status.refused or ():
        told = f"{refused.kind} {refused.name}: {refused.message}"
        yield Problem("error", name, refused.reason, told, fix(refused.reason))
    left = (peer.status.counts.refused if peer.status.counts else 0) - len(peer.status.refused or ())
    if left > 0:
        yield Problem("error", name, "ObjectsRefused", f"{left} more objects are refused", "see the ones above")
    if (problem := expiry_problem(name, parse_time(peer.status.credential_expiry_time), now)) is not None:
        yield problem


def expiry_problem(name: str, end: datetime | None, now: datetime) -> Problem | None:
    """A credential that has ended (error) or ends within a week (warning)."""
    if end is None or end - now > EXPIRY_WARNING:
        return None
    severity: Literal["error", "warning"] = "error" if end <= now else "warning"
    told = f"the credential {'ended' if end <= now else 'ends'} at {end:%Y-%m-%dT%H:%M:%SZ}"
    return Problem(severity, name, "CredentialExpires", told, "rotate it: mesh.yml of the peer writes a new one")


def node_problems(node: objects.MeshNode, now: datetime) -> Iterator[Problem]:
    """What an agent says of its node, and its bad paths; an agent that says nothing any more."""
    name = f"node {node.metadata.name}"
    heard = parse_time(node.status.last_heartbeat_time)
    silent_s = (now - heard).total_seconds() if heard is not None else 0.0
    if silent_s > SILENT_S:
        told = f"its agent was last heard {silent_s // 60:.0f} min ago: routes stay as they were, nothing follows"
        yield Problem("error", name, "AgentSilent", told, fix("AgentSilent"))
    ready = condition(node.status.conditions, "Ready")
    for found in node.status.problems or ():
        yield Problem("error", name, found.reason, f"{found.object}: {found.message}", fix(found.reason))
    if ready.status != "True" and not node.status.problems:
        told = ready.message or "its agent has said nothing yet"
        yield Problem("error", name, "NoAgent" if ready.status == "Unknown" else ready.reason, told, fix("NoAgent"))
    for path in node.status.paths.problems if node.status.paths is not None else ():
        size = f", {path.mtu} bytes pass" if path.mtu else ""
        since = f" since {path.since}" if path.since else ""
        told = f"path to {path.cluster}.{path.node} (IPv{path.family}) is {path.state}{since}: {path.reason}{size}"
        severity: Literal["error", "warning"] = "warning" if path.state == "degraded" else "error"
        yield Problem(severity, name, "BadPath", told, fix(path.state))


def _missing_agents(facts: _Facts) -> Iterator[Problem]:
    """Nodes without an agent, where an overlay is wanted; a warning, since some nodes may be meant to have none."""
    if facts.nodes is None or not any(p.spec.sync_options.overlay_routing_mode == "Enabled" for p in facts.peers):
        return
    known = {node.metadata.name for node in facts.mesh_nodes}
    for node in facts.nodes:
        if node.metadata.name not in known:
            told = "no agent reports, although a peer's overlay is enabled"
            yield Problem("warning", f"node {node.metadata.name}", "NoAgent", told, fix("NoAgent"))


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time of the API; None for what is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    except (ValueError, OverflowError):
        return None


# ---- tables


def text(view: Status, *, wide: bool) -> str:
    """Three tables, and a line per problem."""
    header = ["PEER", "CONNECTED", "SYNCED", "OVERLAY", "NODES", "SERVICES", "REFUSED", "VERSION", "CREDENTIAL ENDS"]
    wide_header = ["CLUSTER ID", "LAST SYNC"] if wide else []
    rows = [
        [p.name, p.connected, p.synced, p.overlay, p.nodes, p.services, p.refused, p.server_version]
        + [p.credential_expiry_time or "never"]
        + ([p.cluster_id, p.last_sync_time] if wide else [])
        for p in view.peers
    ]
    nodes_header = ["NODE", "READY", "DEVICE/MTU", "ROUTES", "PATHS", "PROBLEMS", *(["AGENT"] if wide else [])]
    nodes = [
        [n.name, n.ready, ",".join(f"{d}/{m}" for d, m in n.devices.items()), _routes(n), _paths(n), n.problems]
        + ([n.agent_version] if wide else [])
        for n in view.nodes
    ]
    counts = view.services
    summary = (
        f"SERVICES   {counts.federated} federated, {counts.with_problems} with problems (clustermesh services -A)"
    )
    parts = [table([*header, *wide_header], rows), table(nodes_header, nodes), summary]
    parts.append(problem_lines(view.problems) or "All is well.")
    return "\n\n".join(parts)


def _routes(node: NodeRow) -> str:
    return ",".join(f"{p}:{node.programmed_routes[p]}/{wanted}" for p, wanted in node.wanted_routes.items())


def _paths(node: NodeRow) -> str:
    """Good ones of those that were tried."""
    paths = node.paths
    return "" if paths is None else f"{paths['reachable']}/{sum(paths.values()) - paths['unknown']}"
