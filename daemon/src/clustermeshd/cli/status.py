"""``clustermesh status``: peers, nodes and federated Services of the mesh as this cluster sees them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from clustermeshd.cli.tables import table
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import NotFound
from clustermeshd.model import names
from clustermeshd.plan import federation


@dataclass(frozen=True, slots=True)
class View:
    """Everything the status is made of."""

    peers: list[objects.RemoteClusterConfiguration]
    remote_nodes: list[objects.RemoteNode]
    mesh_nodes: list[objects.MeshNode]
    services: list[objects.Service]
    slices: list[objects.EndpointSlice]


async def read(client: Client) -> View:
    """Reads the view; a cluster without our CRDs is told as such."""
    try:
        peers, remote, mesh, services, slices = await asyncio.gather(
            client.list(resources.REMOTE_CLUSTER_CONFIGURATIONS),
            client.list(resources.REMOTE_NODES),
            client.list(resources.MESH_NODES),
            client.list(resources.SERVICES),
            client.list(resources.ENDPOINT_SLICES, label_selector=f"{names.SLICE_MANAGED_BY}={names.SLICE_MANAGER}"),
        )
    except NotFound as error:
        message = "this cluster is in no mesh: the kinds of clustermesh.io/v1alpha1 are not installed"
        raise NotFound(message) from error
    return View(list(peers[0]), list(remote[0]), list(mesh[0]), list(services[0]), list(slices[0]))


def is_ready(view: View) -> bool:
    """Whether every peer is in sync and every agent says it is ready."""
    return (
        bool(view.peers)
        and all(_condition(peer.status.conditions, "Synced") == "True" for peer in view.peers)
        and all(_condition(node.status.conditions, "Ready") == "True" for node in view.mesh_nodes)
    )


def _condition(conditions: tuple[objects.Condition, ...] | None, name: str) -> str:
    return next((c.status for c in conditions or () if c.type == name), "Unknown")


def _message(conditions: tuple[objects.Condition, ...] | None, name: str) -> str:
    return next(
        (f"{c.reason}: {c.message}" if c.message else c.reason for c in conditions or () if c.type == name), ""
    )


def text(view: View) -> str:
    """The view as three tables and a list of what is wrong."""
    return "\n\n".join((_peers(view), _nodes(view), _services(view), *_problems(view)))


def _peers(view: View) -> str:
    rows = [
        (
            peer.metadata.name,
            _condition(peer.status.conditions, "Connected"),
            _condition(peer.status.conditions, "Synced"),
            peer.spec.sync_options.overlay_routing_mode,
            peer.status.counts.nodes if peer.status.counts else 0,
            peer.status.counts.services if peer.status.counts else 0,
            peer.status.counts.refused if peer.status.counts else 0,
            peer.status.server_version,
            peer.status.credential_expiry_time or "never",
        )
        for peer in view.peers
    ]
    header = (
        "PEER",
        "CONNECTED",
        "SYNCED",
        "OVERLAY",
        "NODES",
        "SERVICES",
        "REFUSED",
        "VERSION",
        "CREDENTIAL EXPIRES",
    )
    return table(header, rows)


def _nodes(view: View) -> str:
    rows = [
        (
            node.metadata.name,
            _condition(node.status.conditions, "Ready"),
            ",".join(f"{d.name}/{d.mtu}" for d in node.status.devices or ()),
            ",".join(f"{p.name}:{p.programmed_routes}/{p.wanted_routes}" for p in node.status.peers or ()),
            len(node.status.problems or ()),
            node.status.agent_version,
        )
        for node in view.mesh_nodes
    ]
    return table(("NODE", "READY", "DEVICE/MTU", "ROUTES", "PROBLEMS", "AGENT"), rows)


def _services(view: View) -> str:
    rows = []
    for service in view.services:
        selector = federation.selector_text(service)
        if selector is None:
            continue
        counts: dict[str, int] = {}
        for piece in view.slices:
            same = piece.metadata.namespace == service.metadata.namespace
            if same and piece.labels.get(names.SERVICE_NAME) == service.metadata.name:
                cluster = piece.labels.get(names.REMOTE_CLUSTER, "local")
                counts[cluster] = counts.get(cluster, 0) + len(piece.endpoints or ())
        endpoints = ",".join(f"{cluster}:{count}" for cluster, count in sorted(counts.items()))
        rows.append((service.metadata.namespace, service.metadata.name, selector, endpoints))
    return table(("NAMESPACE", "FEDERATED SERVICE", "SELECTOR", "ENDPOINTS"), rows)


def _problems(view: View) -> list[str]:
    lines = [
        f"peer {peer.metadata.name}: {_message(peer.status.conditions, 'Connected')}"
        for peer in view.peers
        if _condition(peer.status.conditions, "Connected") != "True"
    ]
    lines += [
        f"peer {peer.metadata.name}: {r.kind} {r.name}: {r.reason}: {r.message}"
        for peer in view.peers
        for r in peer.status.refused or ()
    ]
    lines += [
        f"node {node.metadata.name}: {p.reason}: {p.object}: {p.message}"
        for node in view.mesh_nodes
        for p in node.status.problems or ()
    ]
    lines += [
        f"node {node.metadata.name}: path to {p.cluster}.{p.node} IPv{p.family} "
        f"is {p.state} since {p.since}: {p.reason}" + (f", {p.mtu} bytes pass" if p.mtu else "")
        for node in view.mesh_nodes
        if node.status.paths is not None
        for p in node.status.paths.problems
    ]
    return ["\n".join(("PROBLEMS", *lines))] if lines else []


def as_json(view: View) -> str:
    """The same as one JSON document: the objects as the API has them."""
    document = {
        "ready": is_ready(view),
        "peers": view.peers,
        "remoteNodes": view.remote_nodes,
        "meshNodes": view.mesh_nodes,
        "federatedServices": [s for s in view.services if federation.selector_text(s) is not None],
        "endpointSlices": view.slices,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
