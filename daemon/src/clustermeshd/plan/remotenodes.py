"""Nodes of all peers -> the RemoteNodes that agents may program.

One function over all peers at once, because admission is a question between them: the peer that was configured first
keeps a prefix that two peers claim, whatever order their events arrive in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.addresses import Address, Network, parse_address, parse_network, tunnel_address, vtep_mac
from clustermeshd.plan.admission import ClaimedNetworks, LocalNetworks, Refusal, allowed, reserved

_MAX_NAME = 253  # RFC 1123 subdomain


@dataclass(frozen=True, slots=True)
class PeerNodes:
    """What a peer says about its nodes.

    ``nodes`` is None while the peer has not listed them in this process's life: then what was mirrored before
    (``mirrored``) stays as it is, and keeps its claims.
    """

    configuration: objects.RemoteClusterConfiguration
    cluster_id: str
    nodes: Iterable[objects.Node] | None
    mirrored: tuple[objects.RemoteNode, ...] = ()


@dataclass(slots=True)
class PeerPlan:
    """What a peer gets: desired RemoteNodes by name, what was refused, and the prefixes that became its own."""

    nodes: dict[str, objects.RemoteNode] = field(default_factory=dict)
    refused: list[objects.RefusedObject] = field(default_factory=list)
    pod_cidrs: ClaimedNetworks = field(default_factory=ClaimedNetworks)
    node_addresses: set[Address] = field(default_factory=set)

    def owns(self, address: Address) -> bool:
        """Whether an endpoint of the peer may have this address."""
        return address in self.node_addresses or self.pod_cidrs.overlapping(ip_network(address)) is not None


def plan(local: LocalNetworks, peers: Sequence[PeerNodes]) -> dict[str, PeerPlan]:
    """Plan of every peer, by the name of its RemoteClusterConfiguration."""
    claims = ClaimedNetworks()
    plans: dict[str, PeerPlan] = {}
    for peer in sorted(peers, key=lambda p: _age(p.configuration)):
        plans[peer.configuration.metadata.name] = (
            _keep(peer, claims) if peer.nodes is None else _peer(local, peer, claims)
        )
    return plans


def _age(thing: objects.Object) -> tuple[str, str]:
    return thing.metadata.creation_timestamp or "", thing.metadata.name


def _keep(peer: PeerNodes, claims: ClaimedNetworks) -> PeerPlan:
    plan = PeerPlan()
    owner = f"peer {peer.configuration.metadata.name}"
    for node in peer.mirrored:
        plan.nodes[node.metadata.name] = node
        for text in (*node.spec.pod_cidrs, *node.spec.addresses):
            network = parse_network(text)
            if network is not None and claims.claim(network, owner) is None:
                plan.pod_cidrs.claim(network, owner)
        plan.node_addresses.update(a for a in map(parse_address, node.spec.addresses) if a is not None)
    return plan


def _peer(local: LocalNetworks, peer: PeerNodes, claims: ClaimedNetworks) -> PeerPlan:
    plan = PeerPlan()
    for node in sorted(peer.nodes or (), key=_age):
        remote, refused = _node(local, peer, claims, plan, node)
        plan.refused.extend(
            objects.RefusedObject(kind="Node", name=node.metadata.name, reason=r.reason, message=r.message)
            for r in refused
        )
        if remote is not None:
            plan.nodes[remote.metadata.name] = remote
    return plan


def _node(
    local: LocalNetworks, peer: PeerNodes, claims: ClaimedNetworks, plan: PeerPlan, node: objects.Node
) -> tuple[objects.RemoteNode | None, list[Refusal]]:
    rules = allowed(peer.configuration.spec.import_.pod_cidrs, peer.configuration.spec.import_.node_cidrs)
    owner = f"node {node.metadata.name} of peer {peer.configuration.metadata.name}"
    refused: list[Refusal] = []

    def admit(network: Network, verdicts: Iterator[Refusal | None]) -> bool:
        refusal = next((verdict for verdict in verdicts if verdict is not None), None)
        if refusal is None and (holder := claims.claim(network, owner)) is not None:
            refusal = Refusal("OverlapsPeer", f"{network} overlaps a prefix of {holder}")
        if refusal is not None:
            refused.append(refusal)
        return refusal is None

    addresses: list[Address] = []
    for address in _internal_addresses(node, refused):
        network = ip_network(address)
        if admit(network, iter((reserved(network), local.collision(network), rules.nodes(network)))):
            addresses.append(address)
    cidrs: list[Network] = []
    for cidr in _pod_cidrs(node, refused):
        if admit(cidr, iter((reserved(cidr), local.collision(cidr), rules.pods(cidr)))):
            cidrs.append(cidr)
            plan.pod_cidrs.claim(cidr, owner)
    if not addresses:
        return None, refused
    plan.node_addresses.update(addresses)
    return _remote_node(peer, node, addresses, cidrs), refused


def _internal_addresses(node: objects.Node, refused: list[Refusal]) -> list[Address]:
    """The first InternalIP of each family."""
    found: dict[int, Address] = {}
    for entry in node.status.addresses or ():
        if entry.type != "InternalIP":
            continue
        address = parse_address(entry.address)
        if address is None:
            refused.append(Refusal("InvalidAddress", f"InternalIP {entry.address!r} is no IP address"))
        else:
            found.setdefault(address.version, address)
    if not found and not refused:
        refused.append(Refusal("NoAddress", "the node has no InternalIP"))
    return [found[family] for family in sorted(found)]


def _pod_cidrs(node: objects.Node, refused: list[Refusal]) -> list[Network]:
    texts = node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
    cidrs: list[Network] = []
    for text in texts:
        network = parse_network(text)
        if network is None:
            refused.append(Refusal("InvalidCIDR", f"spec.podCIDRs has {text!r}, which is no CIDR"))
        else:
            cidrs.append(network)
    return cidrs


def _remote_node(
    peer: PeerNodes, node: objects.Node, addresses: list[Address], cidrs: list[Network]
) -> objects.RemoteNode:
    configuration = peer.configuration
    cluster = configuration.metadata.name
    return objects.RemoteNode(
        metadata=objects.Metadata(
            name=remote_node_name(cluster, node.metadata.name),
            labels={names.REMOTE_CLUSTER: cluster, names.MANAGED_BY: names.MANAGER},
            owner_references=(owned_by(configuration),),
        ),
        spec=objects.RemoteNodeSpec(
            cluster_id=peer.cluster_id,
            cluster_name=cluster,
            node_name=node.metadata.name,
            overlay_routing_mode=configuration.spec.sync_options.overlay_routing_mode,
            addresses=tuple(map(str, addresses)),
            pod_cidrs=tuple(map(str, cidrs)),
            tunnel_addresses=tuple(map(str, _tunnel_addresses(node.annotations, cidrs))),
            vtep_mac=vtep_mac(peer.cluster_id, node.metadata.name),
        ),
    )


def _tunnel_addresses(annotations: Mapping[str, str], cidrs: list[Network]) -> list[Address]:
    """Per family: Calico's tunnel address where it lies in the node's own prefixes, else the network address."""
    found: list[Address] = []
    for family, annotation in ((4, names.CALICO_TUNNEL_ADDRESS_V4), (6, names.CALICO_TUNNEL_ADDRESS_V6)):
        own = [cidr for cidr in cidrs if cidr.version == family]
        calico = parse_address(annotations.get(annotation, ""))
        if calico is not None and any(calico in cidr for cidr in own):
            found.append(calico)
        elif own:
            found.append(tunnel_address(own[0]))
    return found


def remote_node_name(cluster: str, node: str) -> str:
    """``<cluster>.<node>``, with a hash for its tail where that is longer than a name may be."""
    name = f"{cluster}.{node}"
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 11].rstrip('.-')}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def owned_by(owner: objects.RemoteClusterConfiguration) -> objects.OwnerReference:
    """Reference by which the garbage collector removes what a deleted configuration leaves, even without us."""
    return objects.OwnerReference(
        api_version=names.API_VERSION,
        kind="RemoteClusterConfiguration",
        name=owner.metadata.name,
        uid=owner.metadata.uid,
    )
