"""From remote nodes to kernel objects: the pure heart of the agent.

Per remote node and inner family one FDB entry, one permanent neighbour and one nexthop object; per prefix one route by
that nexthop. A node that moves is one FDB entry rewritten, however many prefixes it has. Nothing here depends on
order, time or history: the same inputs give the same objects after any restart, so a restart changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clustermeshd.kernel import nftables
from clustermeshd.kernel.dataplane import FIRST_NEXTHOP
from clustermeshd.kernel.state import (
    Device,
    FdbEntry,
    HostAddress,
    KernelState,
    Marked,
    Neighbour,
    Nexthop,
    NftTable,
    Packed,
    Route,
    Rule,
    address_text,
    keyed,
)
from clustermeshd.kernel.sysctls import FORWARDING
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.model.addresses import Address, Network, vtep_mac
from clustermeshd.model.settings import VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6, Dataplane
from clustermeshd.plan.overlay_claims import Peer, Problem, admit, by_precedence, outermost, parse_peer
from clustermeshd.plan.overlay_local import LocalNode, Underlay, of_family

_OVERHEAD = {4: VXLAN_OVERHEAD_V4, 6: VXLAN_OVERHEAD_V6}
_FAMILIES = (4, 6)
_LEAST_IPV6_MTU = 1280


@dataclass(frozen=True, slots=True)
class PeerCount:
    """What one remote cluster amounts to on this node."""

    overlay_routing_mode: str
    nodes: int = 0  # with overlay
    routes: int = 0


@dataclass(frozen=True, slots=True)
class Desired:
    """The kernel as it should be, with what was refused and why."""

    marked: Marked
    problems: tuple[Problem, ...]
    peers: Mapping[str, PeerCount] = field(default_factory=dict)  # by RemoteClusterConfiguration
    owners: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # by nexthop id: that and the node


def desired(local: LocalNode, remotes: Iterable[RemoteNode], settings: Dataplane, actual: KernelState) -> Desired:
    """All kernel objects of this node. ``actual`` tells where the underlay is and which numbers others use."""
    problems: list[Problem] = []
    peers = _accepted(local, remotes, problems)
    nodes = {address for peer in peers if peer.has_overlay for address in peer.addresses} | set(local.addresses)
    prefixes = admit(peers, local.pod_cidrs, nodes, problems)
    if not peers:
        return Desired(Marked(), tuple(problems))
    if not local.pod_cidrs:
        problems.append(Problem("NoPodCIDR", local.name, "this node has no pod CIDR; pods cannot keep their address"))
    planner = _Planner(local, settings, actual, problems)
    for family in _FAMILIES:
        planner.add_family(family, peers, prefixes)
    return planner.result(peers, prefixes)


def _accepted(local: LocalNode, remotes: Iterable[RemoteNode], problems: list[Problem]) -> list[Peer]:
    """Remote nodes in order of precedence, without our own and without second copies of one node."""
    peers: list[Peer] = []
    seen: dict[tuple[str, str], str] = {}
    for remote in by_precedence(remotes):
        peer = parse_peer(remote, problems)
        identity = (peer.cluster_id, peer.node)
        if not peer.cluster_id or peer.cluster_id == local.cluster_id:
            problems.append(Problem("OwnCluster", peer.name, f"cluster id {peer.cluster_id!r} is none of a remote"))
        elif identity in seen:
            problems.append(Problem("DuplicateNode", peer.name, f"the same node as {seen[identity]}"))
        else:
            seen[identity] = peer.name
            peers.append(peer)
    return peers


class _Planner:
    """Collects the objects of both families."""

    def __init__(self, local: LocalNode, settings: Dataplane, actual: KernelState, problems: list[Problem]) -> None:
        self._local, self._settings, self._actual, self._problems = local, settings, actual, problems
        self._devices: list[Device] = []
        self._addresses: list[HostAddress] = []
        self._nexthops: list[Nexthop] = []
        self._fdb: list[FdbEntry] = []
        self._neighbours: list[Neighbour] = []
        self._routes: list[Route] = []
        self._rules: list[Rule] = []
        self._tunnels: list[nftables.Tunnel] = []
        self._bindings: dict[tuple[int, int], dict[Packed, list[Network]]] = {}
        self._owners: dict[int, tuple[str, str]] = {}

    def add_family(self, family: int, peers: Sequence[Peer], prefixes: Mapping[str, tuple[Network, ...]]) -> None:
        """Device, rule and everything behind them, where this node and some overlay peer have that family."""
        members = [
            (peer, own)
            for peer in peers
            if peer.has_overlay and (own := [prefix for prefix in prefixes[peer.name] if prefix.version == family])
        ]
        if not members or of_family(self._local.pod_cidrs, family) is None:
            return
        name = self._settings.device_of(family)
        if name in self._actual.around.foreign_devices:
            message = "a device of this name is not ours; remove it or choose another name (setting device)"
            self._problem("ForeignDevice", name, message)
            return
        underlay = self._underlay(family)
        if underlay is None:
            return
        source = self._tunnel_source(family)
        device = self._device(family, underlay)
        self._check(family, device)
        self._devices.append(device)
        self._rules.append(Rule(family, self._settings.rule_priority, self._settings.table))
        self._tunnels.append(nftables.Tunnel(family, name, device.vni, device.mtu, source))
        self._add_members(members, device, underlay, source)

    def result(self, peers: Sequence[Peer], prefixes: Mapping[str, tuple[Network, ...]]) -> Desired:
        marked = Marked(
            devices=keyed(self._devices),
            addresses=keyed(self._addresses),
            nexthops=keyed(self._nexthops),
            fdb=keyed(self._fdb),
            neighbours=keyed(self._neighbours),
            routes=keyed(self._routes),
            rules=keyed(self._rules),
            nft=self._table(prefixes),
        )
        return Desired(marked, tuple(dict.fromkeys(self._problems)), self._count(peers), self._owners)

    def _problem(self, reason: str, subject: str, message: str) -> None:
        self._problems.append(Problem(reason, subject, message))

    # ---- the device and where it stands

    def _underlay(self, family: int) -> Underlay | None:
        """By InternalIP; while that is on no device, what the mesh device uses now, so that a flap removes nothing."""
        address = of_family(self._local.addresses, family) or next(iter(self._local.addresses), None)
        if address is None:
            self._problem("NoNodeAddress", self._local.name, "the Node has no InternalIP")
            return None
        around = self._actual.around
        link = next((entry.link for entry in around.addresses if entry.address == address.packed), "")
        if link in around.links:
            return Underlay(link, address.packed, around.links[link].mtu)
        self._problem("NoUnderlay", self._local.name, f"InternalIP {address} is on no interface of this node")
        current = self._actual.marked.devices.get(self._settings.device_of(family))
        if current is None or current.lower not in around.links:
            return None
        return Underlay(current.lower, current.local, around.links[current.lower].mtu)

    def _device(self, family: int, underlay: Underlay) -> Device:
        return Device(
            name=self._settings.device_of(family),
            vni=self._settings.vni_of(family),
            port=self._settings.port,
            lower=underlay.interface,
            local=underlay.address,
            mac=_packed_mac(vtep_mac(self._local.cluster_id, self._local.name)),
            mtu=underlay.mtu - _OVERHEAD[underlay.family],
        )

    def _check(self, family: int, device: Device) -> None:
        """What keeps packets from flowing and is not ours to change."""
        setting = FORWARDING[family]
        if self._actual.around.forwarding.get(family) is False:
            self._problem("ForwardingOff", setting, f"is 0: this node does not forward IPv{family}; set it to 1")
        if family == 6 and device.mtu < _LEAST_IPV6_MTU:
            message = (
                f"MTU {device.mtu} is below {_LEAST_IPV6_MTU}, the least that IPv6 takes; raise that of {device.lower}"
            )
            self._problem("MTUTooSmall", device.name, message)

    def _tunnel_source(self, family: int) -> Packed | None:
        """The tunnel address, put on ``lo`` unless some device of the node holds it already."""
        address = self._local.tunnel_address(family)
        if address is None:
            self._problem("NoTunnelAddress", self._local.name, f"none for IPv{family}: its host traffic stays out")
            return None
        is_ours = address.packed in self._actual.marked.addresses
        if is_ours or not any(entry.address == address.packed for entry in self._actual.around.addresses):
            self._addresses.append(HostAddress(address.packed))
        return address.packed

    # ---- remote nodes

    def _add_members(
        self,
        members: Sequence[tuple[Peer, list[Network]]],
        device: Device,
        underlay: Underlay,
        source: Packed | None,
    ) -> None:
        family = 4 if device.name == self._settings.device_of(4) else 6
        number = _numbering(family, [peer for peer, _ in members], self._actual.around.foreign_nexthops)
        gateways: set[Packed] = set()
        macs = {device.mac}
        bindings = self._bindings.setdefault((underlay.family, family), {})
        for peer, prefixes in members:
            outer = of_family(peer.addresses, underlay.family)
            gateway = _gateway(peer, prefixes, family, gateways)
            mac = peer.mac or _packed_mac(vtep_mac(peer.cluster_id, peer.node))
            problem = self._member_problem(peer, outer, gateway, mac in macs, underlay.family)
            if problem is not None or outer is None or gateway is None:
                continue
            gateways.add(gateway)
            macs.add(mac)
            nexthop = number(peer)
            self._owners[nexthop] = (peer.cluster_name, peer.node)
            self._nexthops.append(Nexthop(nexthop, device.name, gateway))
            self._fdb.append(FdbEntry(device.name, mac, outer.packed))
            self._neighbours.append(Neighbour(device.name, gateway, mac))
            bindings.setdefault(outer.packed, []).extend(prefixes)
            self._add_routes(peer, prefixes, nexthop, source, device.mtu)

    def _member_problem(
        self, peer: Peer, outer: Address | None, gateway: Packed | None, has_known_mac: bool, family: int
    ) -> str | None:
        if outer is None:
            reason, message = "NoUnderlayAddress", f"no IPv{family} node address, which this node's underlay needs"
        elif outer in self._local.addresses:
            reason, message = "OwnAddress", f"node address {outer} is this node's own"
        elif gateway is None:
            reason, message = "DuplicateGateway", "every address to route by belongs to another remote node too"
        elif has_known_mac:
            reason, message = "DuplicateMAC", "another node has the same tunnel MAC"
        else:
            return None
        self._problem(reason, peer.name, message)
        return reason

    def _add_routes(
        self, peer: Peer, prefixes: Iterable[Network], nexthop: int, source: Packed | None, mtu: int
    ) -> None:
        for prefix in prefixes:
            route = Route(prefix.network_address.packed, prefix.prefixlen, nexthop, source, mtu)
            if route.key in self._actual.around.foreign_routes:
                message = f"table {self._settings.table} holds a foreign route to {prefix}"
                self._problem("ForeignRoute", peer.name, message)
            else:
                self._routes.append(route)

    # ---- nftables and counts

    def _table(self, prefixes: Mapping[str, tuple[Network, ...]]) -> NftTable:
        remote = [prefix for own in prefixes.values() for prefix in own]
        elements: dict[str, list[str]] = {}
        for family in _FAMILIES:
            for side, networks in (("local", self._local.pod_cidrs), ("remote", remote)):
                kept = outermost(network for network in networks if network.version == family)
                elements[nftables.pods_set(side, family)] = [nftables.prefix_element(network) for network in kept]
        for (outer_family, inner_family), bindings in self._bindings.items():
            elements.setdefault(nftables.nodes_set(outer_family), []).extend(map(address_text, bindings))
            elements[nftables.peers_set(outer_family, inner_family)] = [
                nftables.binding_element(outer, network)
                for outer, networks in bindings.items()
                for network in outermost(networks)
            ]
        return nftables.desired_table(self._tunnels, elements, self._settings.port)

    def _count(self, peers: Sequence[Peer]) -> dict[str, PeerCount]:
        modes = {peer.cluster_name: "Enabled" if peer.has_overlay else "Disabled" for peer in peers}
        nodes = Counter(peer.cluster_name for peer in peers if peer.has_overlay)
        routes = Counter(self._owners[route.nexthop][0] for route in self._routes)
        return {name: PeerCount(mode, nodes[name], routes[name]) for name, mode in modes.items()}


def _numbering(family: int, peers: Iterable[Peer], taken: frozenset[int]) -> Callable[[Peer], int]:
    """Nexthop ids: a hash of the node's identity; the next free one where two hashes meet, always decided alike."""
    ids: dict[tuple[str, str], int] = {}
    used = set(taken)
    for cluster_id, node in sorted((peer.cluster_id, peer.node) for peer in peers):
        digest = hashlib.sha256(f"{cluster_id}/{node}/{family}".encode()).digest()
        number = int.from_bytes(digest[:4], "big") % FIRST_NEXTHOP
        while FIRST_NEXTHOP + number in used:
            number = (number + 1) % FIRST_NEXTHOP
        ids[cluster_id, node] = FIRST_NEXTHOP + number
        used.add(FIRST_NEXTHOP + number)
    return lambda peer: ids[peer.cluster_id, peer.node]


def _gateway(peer: Peer, prefixes: Iterable[Network], family: int, taken: set[Packed]) -> Packed | None:
    """Address that stands for the node on the device: its tunnel address, else a network address of its own."""
    own = [address for address in peer.tunnel_addresses if address.version == family]
    admitted = list(prefixes)
    candidates = [address for address in own if any(address in prefix for prefix in admitted)]
    candidates += [prefix.network_address for prefix in admitted]
    return next((address.packed for address in candidates if address.packed not in taken), None)


def _packed_mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
