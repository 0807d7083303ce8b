"""Nodes of all peers -> the RemoteNodes that agents may program.

One function over all peers at once, because admission is a question between them: the peer that was configured first
keeps a prefix that two peers claim, whatever order their events arrive in. Inside one cluster a longer prefix may lie
in another node's (Calico lends single addresses of a block), but no prefix has two nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.addresses import BITS, Point, Prefix, parse_point, parse_prefix, vtep_mac
from clustermeshd.plan.admission import (
    MAX_NAME,
    Holders,
    LocalNetworks,
    Refusal,
    allowed,
    first_inside,
    host_prefix,
    is_subdomain,
    reserved,
)
from clustermeshd.plan.ipam import PodPrefixes, spec_cidrs
from clustermeshd.plan.refusals import OWN_KIND, Refusals

_MAX_CIDRS = 4096  # of a RemoteNode
_REMEMBERED = 1 << 16
# A plan is made of all nodes of a cluster whenever one changes: what was read of the others is not read again.
_point = lru_cache(_REMEMBERED)(parse_point)
_prefix = lru_cache(_REMEMBERED)(parse_prefix)
_mac = lru_cache(_REMEMBERED)(vtep_mac)


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
    prefixes: PodPrefixes = field(default_factory=PodPrefixes)


@dataclass(slots=True)
class PeerPlan:
    """What a peer gets: desired RemoteNodes by name, what was refused, and the prefixes its endpoints may lie in."""

    nodes: dict[str, objects.RemoteNode] = field(default_factory=dict)
    refused: Refusals = field(default_factory=Refusals)
    owned: frozenset[Prefix] = frozenset()


class Memory:
    """Plans as they were made last: a peer is planned again where its own facts or what older peers claim changed.

    With tens of thousands of nodes one changed node then costs its own cluster's plan and no more.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[tuple[object, ...], PeerPlan]] = {}

    def recall(self, name: str, facts: tuple[object, ...], make: Callable[[], PeerPlan]) -> PeerPlan:
        """The plan made of ``facts``; a copy, to which the caller may add."""
        known = self._last.get(name)
        if known is None or known[0] != facts:
            made = make()
            if known is not None and known[1].owned == made.owned:
                made.owned = known[1].owned  # the same object, so that comparing it costs nothing
            known = self._last[name] = (facts, made)
        return replace(known[1], refused=known[1].refused.copy())

    def forget_all_but(self, names: Collection[str]) -> None:
        self._last = {name: known for name, known in self._last.items() if name in names}


def plan(local: LocalNetworks, peers: Sequence[PeerNodes], memory: Memory | None = None) -> dict[str, PeerPlan]:
    """Plan of every peer, by the name of its RemoteClusterConfiguration; ``memory`` changes what it costs alone."""
    memory = Memory() if memory is None else memory
    others = Holders()
    plans: dict[str, PeerPlan] = {}
    elders: list[tuple[str, frozenset[Prefix]]] = []
    for peer in sorted(peers, key=lambda p: age(p.configuration)):
        name = peer.configuration.metadata.name
        facts = (local, tuple(elders), *_facts(peer))
        plans[name] = memory.recall(name, facts, partial(_plan_one, local, others, peer))
        elders.append((name, plans[name].owned))
        others.add((prefix, f"peer {name}") for prefix in plans[name].owned)
    memory.forget_all_but(plans)
    claimed = {name: made.owned for name, made in plans.items()}
    for peer in peers:
        _add_services(local, claimed, peer, plans[peer.configuration.metadata.name])
    return plans


def _plan_one(local: LocalNetworks, others: Holders, peer: PeerNodes) -> PeerPlan:
    return _kept(peer) if peer.nodes is None else _Planner(local, others, peer).plan(peer.nodes)


def _facts(peer: PeerNodes) -> tuple[object, ...]:
    """Everything that the plan of a peer is made of, beside what it shares with others."""
    configuration = peer.configuration
    meta, spec = configuration.metadata, configuration.spec
    named = configuration.api_version, meta.name, meta.uid, meta.creation_timestamp
    nodes = None if peer.nodes is None else tuple((node.metadata.name, *planned_by(node)) for node in peer.nodes)
    said = peer.mirrored if nodes is None else nodes
    return *named, spec.import_, spec.sync_options, peer.cluster_id, peer.prefixes, nodes is None, said


def planned_by(node: objects.Node) -> tuple[object, ...]:
    """What a plan reads of a node beside its name: heartbeats rewrite the rest every few seconds."""
    return node.spec, node.status.addresses, node.annotations, node.metadata.creation_timestamp


def age(thing: objects.Object) -> tuple[str, str]:
    """What decides who was first."""
    return thing.metadata.creation_timestamp or "", thing.metadata.name


def _kept(peer: PeerNodes) -> PeerPlan:
    texts = (text for node in peer.mirrored for text in (*node.spec.pod_cidrs, *node.spec.addresses))
    owned = frozenset(prefix for prefix in map(parse_prefix, texts) if prefix is not None)
    return PeerPlan({node.metadata.name: node for node in peer.mirrored}, owned=owned)


def _add_services(
    local: LocalNetworks, claimed: Mapping[str, frozenset[Prefix]], peer: PeerNodes, made: PeerPlan
) -> None:
    """Lets endpoints lie in spec.import.serviceCIDRs that are nobody else's; these prefixes get no routes."""
    rules = allowed(peer.configuration.spec.import_).service_cidrs
    if not rules:
        return
    mine = peer.configuration.metadata.name
    others = Holders((p, f"peer {name}") for name, owned in claimed.items() if name != mine for p in owned)
    for prefix in rules:
        refusal = reserved(prefix) or local.collision(prefix) or _held(prefix, others)
        if refusal is None:
            made.owned |= {prefix}
        else:
            text = f"spec.import.serviceCIDRs: {refusal.message}"
            made.refused.add(OWN_KIND, mine, refusal.reason, text)


def _held(prefix: Prefix, others: Holders) -> Refusal | None:
    found = others.overlapping(prefix)
    return found and Refusal("OverlapsPeer", f"{prefix} overlaps {found[0]} of {found[1]}")


class _Planner:
    """The plan of one peer that has listed its nodes; ``others`` are the claims of older peers."""

    def __init__(self, local: LocalNetworks, others: Holders, peer: PeerNodes) -> None:
        self._local = local
        self._others = others
        self._peer = peer
        self._rules = allowed(peer.configuration.spec.import_)
        self._claims: dict[Prefix, str] = {}  # prefix -> node
        self._underlay: list[Point] = []
        self._made = PeerPlan()

    def plan(self, nodes: Iterable[objects.Node]) -> PeerPlan:
        """Addresses first: no pod prefix may cover the address of a node, or tunnels would lead into themselves."""
        ordered = sorted(filter(self._is_named, nodes), key=age)
        addresses = {node.metadata.name: self._addresses(node) for node in ordered}
        self._underlay = sorted(point for points in addresses.values() for point in points)
        cidrs = {node.metadata.name: self._cidrs(node) for node in ordered}
        lengths = {
            family: sorted({p.length for p in self._claims if p.family == family}, reverse=True) for family in BITS
        }
        for node in ordered:
            name = node.metadata.name
            if addresses[name]:
                tunnels = self._tunnels(node, lengths)
                remote = _remote_node(self._peer, name, addresses[name], cidrs[name], tunnels)
                self._made.nodes[remote.metadata.name] = remote
        self._made.owned = frozenset(self._claims)
        return self._made

    def _is_named(self, node: objects.Node) -> bool:
        if is_subdomain(node.metadata.name):
            return True
        found = f"{node.metadata.name[:64]!r} is no name of a node: lower-case letters, digits, dashes and dots"
        self._refuse(node, Refusal("InvalidName", found))
        return False

    def _addresses(self, node: objects.Node) -> list[Point]:
        """The first InternalIP of each family, as far as they are admitted."""
        found: dict[int, Point] = {}
        is_named = False
        for entry in node.status.addresses or ():
            if entry.type != "InternalIP":
                continue
            is_named = True
            point = _point(entry.address)
            if point is None:
                self._refuse(node, Refusal("InvalidAddress", f"InternalIP {entry.address[:64]!r} is no IP address"))
            else:
                found.setdefault(point.family, point)
        if not is_named:
            self._refuse(node, Refusal("NoAddress", "the node has no InternalIP"))
        return [found[f] for f in sorted(found) if self._claim(node, host_prefix(found[f]), self._node_refusal)]

    def _cidrs(self, node: objects.Node) -> list[Prefix]:
        cidrs: list[Prefix] = []
        for text in self._peer.prefixes.of(node):
            prefix = _prefix(text)
            if len(cidrs) == _MAX_CIDRS:
                self._refuse(node, Refusal("TooManyPrefixes", f"the node has more than {_MAX_CIDRS} pod prefixes"))
                break
            if prefix is None:
                self._refuse(node, Refusal("InvalidCIDR", f"pod prefix {text[:64]!r} is no CIDR"))
            elif self._claim(node, prefix, self._pod_refusal):
                cidrs.append(prefix)
        return cidrs

    def _claim(self, node: objects.Node, prefix: Prefix, rule: Callable[[Prefix], Refusal | None]) -> bool:
        refusal = (
            reserved(prefix)
            or self._local.collision(prefix)
            or rule(prefix)
            or _held(prefix, self._others)
            or self._taken(prefix)
        )
        if refusal is None:
            self._claims[prefix] = node.metadata.name
        else:
            self._refuse(node, refusal)
        return refusal is None

    def _taken(self, prefix: Prefix) -> Refusal | None:
        holder = self._claims.get(prefix)
        return None if holder is None else Refusal("Duplicate", f"{prefix} is of node {holder} already")

    def _node_refusal(self, prefix: Prefix) -> Refusal | None:
        return self._rules.nodes(prefix)

    def _pod_refusal(self, prefix: Prefix) -> Refusal | None:
        covered = first_inside(self._underlay, prefix)
        if covered is not None:
            return Refusal("CoversNode", f"{prefix} contains the address {covered} of a node of the same cluster")
        return self._rules.pods(prefix)

    def _refuse(self, node: objects.Node, refusal: Refusal) -> None:
        self._made.refused.add("Node", node.metadata.name, refusal.reason, refusal.message)

    def _tunnels(self, node: objects.Node, lengths: Mapping[int, Iterable[int]]) -> list[Point]:
        """Per family what the node itself uses: Calico's tunnel address, else its first pod CIDR's network address.

        Either counts only where this very node has it: whoever claims another's is not believed.
        """
        found: dict[int, Point] = {}
        texts = [
            node.annotations.get(name, "") for name in (names.CALICO_TUNNEL_ADDRESS_V4, names.CALICO_TUNNEL_ADDRESS_V6)
        ]
        candidates = [point for text in texts if text and (point := _point(text)) is not None]
        candidates += [Point(p.family, p.low) for text in spec_cidrs(node) if (p := _prefix(text)) is not None]
        for point in candidates:
            if point.family not in found and self._holder(point, lengths[point.family]) == node.metadata.name:
                found[point.family] = point
        return [found[family] for family in sorted(found)]

    def _holder(self, point: Point, lengths: Iterable[int]) -> str | None:
        """The node that has an address: of the prefixes it lies in the longest counts."""
        bits = BITS[point.family]
        for length in lengths:
            low = point.number >> (bits - length) << (bits - length)
            holder = self._claims.get(Prefix(point.family, low, length))
            if holder is not None:
                return holder
        return None


def _remote_node(
    peer: PeerNodes, node: str, addresses: list[Point], cidrs: list[Prefix], tunnels: list[Point]
) -> objects.RemoteNode:
    configuration = peer.configuration
    cluster = configuration.metadata.name
    return objects.RemoteNode(
        metadata=objects.Metadata(
            name=remote_node_name(cluster, node),
            labels={names.REMOTE_CLUSTER: cluster, names.MANAGED_BY: names.MANAGER},
            owner_references=(owned_by(configuration),),
        ),
        spec=objects.RemoteNodeSpec(
            cluster_id=peer.cluster_id,
            cluster_name=cluster,
            node_name=node,
            overlay_routing_mode=configuration.spec.sync_options.overlay_routing_mode,
            addresses=tuple(map(str, addresses)),
            pod_cidrs=tuple(map(str, cidrs)),
            tunnel_addresses=tuple(map(str, tunnels)),
            vtep_mac=_mac(peer.cluster_id, node),
        ),
    )


def remote_node_name(cluster: str, node: str) -> str:
    """``<cluster>.<node>``, with a hash for its tail where that is longer than a name may be."""
    name = f"{cluster}.{node}"
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 11].rstrip('.-')}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def owned_by(owner: objects.RemoteClusterConfiguration) -> objects.OwnerReference:
    """Reference by which the garbage collector removes what a deleted configuration leaves, even without us."""
    return objects.OwnerReference(
        api_version=owner.api_version,
        kind="RemoteClusterConfiguration",
        name=owner.metadata.name,
        uid=owner.metadata.uid,
    )
