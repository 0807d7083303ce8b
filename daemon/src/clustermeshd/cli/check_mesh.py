"""What ``clustermesh check`` finds out about this cluster, and about how it and its peers fit together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

from clustermeshd.cli.check_peer import Check, Probe, Result
from clustermeshd.cli.fixes import fix
from clustermeshd.cli.status import condition, lease_problems, node_problems
from clustermeshd.kube import objects
from clustermeshd.model.addresses import Network, parse_address, parse_network
from clustermeshd.plan import remotenodes
from clustermeshd.plan.admission import LocalNetworks, cluster_ips

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Local:
    """What this cluster's API server has; ``lease`` is None where there is none to be seen."""

    server: str
    version: str
    cluster_id: str
    lease: objects.Lease | None
    nodes: Sequence[objects.Node]
    mesh_nodes: Sequence[objects.MeshNode]
    remote_nodes: Sequence[objects.RemoteNode]
    service_cidrs: Sequence[objects.ServiceCIDR]
    services: Sequence[objects.Service]
    pools: Sequence[objects.IPPool]


def local_checks(local: Local, peers: Sequence[objects.RemoteClusterConfiguration]) -> Iterator[Check]:
    """API server, configurations, controller, agents."""
    yield Check("local", "API server", "ok", f"Kubernetes {local.version} at {local.server}")
    if peers:
        yield Check("local", "peers", "ok", f"{len(peers)} configured")
    else:
        yield Check("local", "peers", "FAIL", "there is no RemoteClusterConfiguration", "run mesh.yml, or apply one")
    yield _controller(local.lease)
    yield from _agents(local, overlay=any(_is_overlay(peer) for peer in peers))


def _is_overlay(peer: objects.RemoteClusterConfiguration) -> bool:
    return peer.spec.sync_options.overlay_routing_mode == "Enabled"


def _controller(lease: objects.Lease | None) -> Check:
    if lease is None:
        told = "there is no Lease to be seen: a single replica without election, or no controller at all"
        return Check("local", "controller", "warn", told, "look at the peers' status times; " + fix("NotLeading"))
    for problem in lease_problems(lease, datetime.now(UTC)):
        return Check("local", "controller", "FAIL", problem.message, problem.fix)
    return Check("local", "controller", "ok", f"{lease.spec.holder_identity} leads")


def _agents(local: Local, *, overlay: bool) -> Iterator[Check]:
    """What each agent says of its node: programmed or not, paths as its probes find them."""
    known = {node.metadata.name for node in local.mesh_nodes}
    missing = [node.metadata.name for node in local.nodes if node.metadata.name not in known]
    if overlay and missing:
        told = f"no agent reports from {_some(missing)}, although a peer's overlay is enabled"
        yield Check("local", "agents", "warn", told, fix("NoAgent"))
    versions = sorted({node.status.agent_version for node in local.mesh_nodes if node.status.agent_version})
    if len(versions) > 1:
        yield Check("local", "agents", "warn", f"versions differ: {', '.join(versions)}", "finish the upgrade")
    for node in sorted(local.mesh_nodes, key=lambda n: n.metadata.name):
        scope = f"node {node.metadata.name}"
        problems = list(node_problems(node, datetime.now(UTC)))
        for problem in problems:
            result: Result = "FAIL" if problem.severity == "error" else "warn"
            name = "paths" if problem.reason == "BadPath" else "agent"
            yield Check(scope, name, result, f"{problem.reason}: {problem.message}", problem.fix)
        if not problems:
            yield Check(scope, "agent", "ok", _programmed(node))


def _programmed(node: objects.MeshNode) -> str:
    routes = sum(peer.programmed_routes for peer in node.status.peers or ())
    devices = ", ".join(f"{d.name} MTU {d.mtu}" for d in node.status.devices or ())
    paths = node.status.paths
    tried = "" if paths is None else f", {paths.reachable} paths reachable, {paths.unknown} not tried yet"
    return f"{condition(node.status.conditions, 'Ready').reason}: {routes} routes{tried} ({devices or 'no device'})"


# ---- this cluster and its peers together


def networks(local: Local) -> LocalNetworks:
    """Prefixes and addresses of this cluster that no peer may claim, as the controller sees them."""
    return LocalNetworks(
        tuple(
            _parsed(
                chain(
                    (cidr for node in local.nodes for cidr in node.spec.pod_cidrs or ()),
                    (pool.spec.cidr for pool in local.pools if not pool.spec.disabled),
                )
            )
        ),
        tuple(_parsed(cidr for entry in local.service_cidrs for cidr in entry.spec.cidrs or ())),
        tuple(
            address
            for node in local.nodes
            for entry in node.status.addresses or ()
            if (address := parse_address(entry.address)) is not None
        ),
        (point for service in local.services for point in cluster_ips(service)),
    )


def _parsed(texts: Iterable[str]) -> Iterator[Network]:
    for text in sorted(set(texts)):
        network = parse_network(text)
        if network is not None:
            yield network


def addresses(local: Local, probes: Sequence[Probe]) -> None:
    """Overlaps, by the very plan that the controller makes of all peers at once."""
    peers = [
        remotenodes.PeerNodes(
            configuration=found.configuration,
            cluster_id=found.cluster_id,
            nodes=found.nodes,
            prefixes=found.prefixes,
            mirrored=tuple(n for n in local.remote_nodes if n.spec.cluster_name == found.name),
        )
        for found in probes
    ]
    plans = remotenodes.plan(networks(local), peers)
    for found in probes:
        if found.nodes is None:
            continue
        plan = plans[found.name]
        by_reason: dict[str, list[str]] = {}
        for refused in plan.refused:
            by_reason.setdefault(refused.reason, []).append(f"{refused.kind} {refused.name}: {refused.message}")
        for reason, messages in sorted(by_reason.items()):
            found.tell("addresses", "FAIL", f"{reason}: {_some(messages, plan.refused.counts[reason])}", fix(reason))
        if not by_reason:
            found.tell("addresses", "ok", f"nothing of its {len(plan.nodes)} nodes overlaps this cluster or a peer")


def node_names(local: Local, found: Probe) -> None:
    """Names need not differ here (they must with Calico Enterprise), but one thing is lost where they do not."""
    if found.nodes is None:
        return
    ours = {node.metadata.name for node in local.nodes}
    both = sorted(node.metadata.name for node in found.nodes if node.metadata.name in ours)
    if both:
        told = f"{_some(both)} in both clusters: routing does not mind; remote endpoints carry no nodeName there"
        found.tell("node names", "warn", told, "name nodes uniquely where something needs that nodeName")
    else:
        found.tell("node names", "ok", "no node of it has the name of a node here")


def overlay_mode(local: Local, found: Probe) -> None:
    """The overlay as this side has it set; the other side's is compared where it can be asked."""
    if not _is_overlay(found.configuration):
        told = "overlayRoutingMode is Disabled: routes to its pods are the underlay's matter"
        found.tell("overlay", "ok", told)
    elif not local.mesh_nodes:
        found.tell("overlay", "FAIL", "overlayRoutingMode is Enabled, and no agent runs here", fix("NoAgent"))
    else:
        found.tell("overlay", "ok", "overlayRoutingMode is Enabled")


def is_answered(local: Local) -> bool:
    """Whether every path that agents probe is answered, which the other side does for nodes it knows only."""
    paths = [node.status.paths for node in local.mesh_nodes]
    return bool(paths) and all(
        p is not None and p.reachable and not (p.unknown or p.unreachable or p.black_holed) for p in paths
    )


def _some(texts: Sequence[str], total: int = 0) -> str:
    left = max(total, len(texts)) - len(texts[:_EXAMPLES])
    more = f" and {left} more" if left else ""
    return "; ".join(texts[:_EXAMPLES]) + more
