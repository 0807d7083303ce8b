"""Nodes of all peers -> the RemoteNodes that agents may program.

One function over all peers at once, because admission is a question between them: of two peers that claim one prefix
the one keeps it of which it was accepted first, and of two new claims the one that was configured first
(docs/decisions/0014-accepted-claims-stand.md). Inside one cluster a longer prefix may lie
in another node's (Calico lends single addresses of a block), but no prefix has two nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import msgspec

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


@dataclass(frozen=True, slots=True)
class _Standing:
    """What was accepted of a peer: of this configuration, and of the cluster that it led to."""

    uid: str
    cluster_id: str
    prefixes: frozenset[Prefix]


class Memory:
    """What was accepted of each peer, and plans as they were made last: one whose facts stay is not made again.

    With tens of thousands of nodes one changed node then costs its own cluster's plan and no more. ``standing`` alone
    has an effect on what is decided.
    """

    def __init__(self, standing: Mapping[str, _Standing] | None = None) -> None:
        self.standing = dict(standing or {})
        self._last: dict[tuple[str, bool], tuple[tuple[object, ...], PeerPlan]] = {}

    def recall(self, key: tuple[str, bool], facts: tuple[object, ...], make: Callable[[], PeerPlan]) -> PeerPlan:
        """The plan made of ``facts``; a copy, to which the caller may add."""
        known = self._last.get(key)
        if known is None or known[0] != facts:
            made = make()
            if known is not None and known[1].owned == made.owned:
                made.owned = known[1].owned  # the same object, so that comparing it costs nothing
            known = self._last[key] = (facts, made)
        return replace(known[1], refused=known[1].refused.copy())

    def stands(self, peer: PeerNodes) -> frozenset[Prefix]:
        """What was accepted of a peer; before the first plan that is what was mirrored of it."""
        meta = peer.configuration.metadata
        known = self.standing.get(meta.name)
        if known is None:
            mine = [node for node in peer.mirrored if _is_of(node, meta.uid, peer.cluster_id)]
            return frozenset(prefix for node in mine for prefix in _claimed(node))
        return known.prefixes if (known.uid, known.cluster_id) == (meta.uid, peer.cluster_id) else frozenset()

    def accepted(self, peers: Iterable[PeerNodes], plans: Mapping[str, PeerPlan], disputed: Collection[str]) -> None:
        """Takes note of what stands from now on, and forgets what nobody asks for any more."""
        metas = [(peer.configuration.metadata, peer.cluster_id) for peer in peers]
        self.standing = {meta.name: _Standing(meta.uid, of, plans[meta.name].owned) for meta, of in metas}
        self._last = {key: known for key, known in self._last.items() if key[0] in (disputed if key[1] else plans)}


def plan(local: LocalNetworks, peers: Sequence[PeerNodes], memory: Memory | None = None) -> dict[str, PeerPlan]:
    """Plan of every peer, by the name of its RemoteClusterConfiguration; ``memory`` is kept between plans.

    Each is planned as if it were alone. Where that leaves two peers with one prefix, what was accepted before stands,
    as long as its peer claims it; of new claims the older peer's counts.
    """
    memory = Memory() if memory is None else memory
    ordered = {p.configuration.metadata.name: p for p in sorted(peers, key=lambda p: age(p.configuration))}
    plans = {
        name: memory.recall((name, False), (local, *_facts(peer)), partial(_plan_one, local, Holders(), peer))
        for name, peer in ordered.items()
    }
    disputed = _disputed(plans)
    if disputed:
        _settle(local, ordered, plans, disputed, memory)
    memory.accepted(peers, plans, disputed)
    claimed = {name: made.owned for name, made in plans.items()}
    for peer in peers:
        _add_services(local, claimed, peer, plans[peer.configuration.metadata.name])
    return plans


def _disputed(plans: Mapping[str, PeerPlan]) -> list[str]:
    """Peers of which a prefix overlaps another peer's, in the order of ``plans``."""
    found: set[str] = set()
    around: list[tuple[Prefix, str]] = []  # prefixes that the next one may lie in, each inside the one before
    for prefix, name in sorted((prefix, name) for name, made in plans.items() for prefix in made.owned):
        while around and not around[-1][0].overlaps(prefix):
            around.pop()
        for _, other in around:
            if other != name:
                found |= {other, name}
        around.append((prefix, name))
    return [name for name in plans if name in found]


def _settle(
    local: LocalNetworks,
    peers: Mapping[str, PeerNodes],
    plans: dict[str, PeerPlan],
    disputed: Collection[str],
    memory: Memory,
) -> None:
    """Plans those anew that dispute prefixes, the oldest first, beside what stands of all others."""
    held: dict[str, frozenset[Prefix]] = {name: made.owned for name, made in plans.items() if name not in disputed}
    taken = Holders()
    for name in disputed:
        stands = memory.stands(peers[name]) & plans[name].owned
        held[name] = frozenset(prefix for prefix in stands if taken.overlapping(prefix) is None)
        taken.add((prefix, name) for prefix in held[name])
    for name in disputed:
        others = Holders((p, f"peer {other}") for other, owned in held.items() if other != name for p in owned)
        facts = (local, others, *_facts(peers[name]))
        plans[name] = memory.recall((name, True), facts, partial(_plan_one, local, others, peers[name]))
        held[name] = plans[name].owned


def _plan_one(local: LocalNetworks, others: Holders, peer: PeerNodes) -> PeerPlan:
    return _kept(local, peer) if peer.nodes is None else _Planner(local, others, peer).plan(peer.nodes)


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


def _kept(local: LocalNetworks, peer: PeerNodes) -> PeerPlan:
    """What was mirrored stays, but for what is ours or not admitted any more."""
    rules = allowed(peer.configuration.spec.import_)
    made = PeerPlan()
    owned: set[Prefix] = set()
    for node in peer.mirrored:
        spec = node.spec
        addresses = [a for a in spec.addresses if _may_stay(local, a, rules.nodes)]
        cidrs = [c for c in spec.pod_cidrs if _may_stay(local, c, rules.pods)]
        if (len(addresses), len(cidrs)) != (len(spec.addresses), len(spec.pod_cidrs)):
            pods = [prefix for prefix in map(_prefix, cidrs) if prefix is not None]
            tunnels = [t for t in spec.tunnel_addresses if (p := _point(t)) and any(c.holds(p) for c in pods)]
            spec = msgspec.structs.replace(
                spec, addresses=tuple(addresses), pod_cidrs=tuple(cidrs), tunnel_addresses=tuple(tunnels)
            )
            node = msgspec.structs.replace(node, spec=spec)  # as far as it stays
        if addresses:
            made.nodes[node.metadata.name] = node
            owned |= _claimed(node)
    made.owned = frozenset(owned)
    return made


def _may_stay(local: LocalNetworks, text: str, rule: Callable[[Prefix], Refusal | None]) -> bool:
    prefix = _prefix(text)
    return prefix is not None and (reserved(prefix) or local.collision(prefix) or rule(prefix)) is None


def _claimed(node: objects.RemoteNode) -> frozenset[Prefix]:
    texts = (*node.spec.pod_cidrs, *node.spec.addresses)
    return frozenset(prefix for prefix in map(_prefix, texts) if prefix is not None)


def _is_of(node: objects.RemoteNode, uid: str, cluster_id: str) -> bool:
    owners = {owner.uid for owner in node.metadata.owner_references or ()}
    return uid in owners and cluster_id == node.spec.cluster_id


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
    """The plan of one peer that has listed its nodes; ``others`` are claims that come before its own."""

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
