"""The kernel objects of one remote node, and the set elements of its prefixes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from clustermeshd.kernel import nftsets
from clustermeshd.kernel.state import Element, FdbEntry, Neighbour, Nexthop, Packed, Route
from clustermeshd.model.addresses import BITS, Point, Prefix
from clustermeshd.plan.overlay_base import Base
from clustermeshd.plan.overlay_claims import Peer, Problem, outermost
from clustermeshd.plan.overlay_index import Owner

Bound = tuple[Base, Packed, Sequence[Prefix]]  # inner prefixes that an outer address may send from


class Part(NamedTuple):
    """The kernel objects of one remote node."""

    peer: Peer
    prefixes: Sequence[Prefix]
    nexthops: list[Nexthop]
    fdb: list[FdbEntry]
    neighbours: list[Neighbour]
    routes: list[Route]
    bound: list[Bound]
    owned: list[int]  # nexthop ids


class Maker(NamedTuple):
    """Makes the parts of a plan. ``mtus``: see ``Overlay.plan``."""

    bases: Mapping[int, Base] = {}
    own_points: frozenset[Point] = frozenset()  # this node's addresses
    mtus: Mapping[tuple[str, str, int], int] = {}

    def part(
        self,
        peer: Peer,
        prefixes: Sequence[Prefix],
        ids: Mapping[Owner, int],
        problems: list[Problem],
        *,
        gateways: set[tuple[int, Packed]],
        has_known_mac: bool,
    ) -> Part:
        """Objects of one remote node; ``gateways`` are those in use by others, to which its own are added."""
        part = Part(peer, prefixes, [], [], [], [], [], [])
        for base in self.bases.values() if peer.has_overlay else ():
            own = [prefix for prefix in prefixes if prefix.family == base.family]
            if not own:
                continue
            outer = next((point for point in peer.addresses if point.family == base.underlay_family), None)
            gateway = _gateway(peer, own, base.family, gateways)
            problem = self._member_problem(peer, outer, gateway, base.underlay_family, has_known_mac=has_known_mac)
            if problem is not None or outer is None or gateway is None:
                problems += [problem] if problem else []
                continue
            gateways.add((base.family, gateway))
            self._add_member(part, peer, base, own, outer, gateway, ids[peer.cluster_id, peer.node, base.family])
        return part

    def _add_member(
        self, part: Part, peer: Peer, base: Base, own: Sequence[Prefix], outer: Point, gateway: Packed, number: int
    ) -> None:
        device = base.device
        destination = outer.packed
        part.owned.append(number)
        part.fdb.append(FdbEntry(device.name, peer.mac, destination))
        part.neighbours.append(Neighbour(device.name, gateway, peer.mac))
        mtu = device.mtu
        if self.mtus:
            mtu = min(mtu, self.mtus.get((peer.cluster_name, peer.node, base.family), mtu))
        if base.has_nexthops:
            part.nexthops.append(Nexthop(number, device.name, gateway))
            part.routes.extend(Route(p.packed, p.length, number, base.source, mtu) for p in own)
        else:
            part.routes.extend(
                Route(p.packed, p.length, number, base.source, mtu, number, device.name, gateway) for p in own
            )
        part.bound.append((base, destination, own))

    def _member_problem(
        self, peer: Peer, outer: Point | None, gateway: Packed | None, family: int, *, has_known_mac: bool
    ) -> Problem | None:
        if outer is None:
            reason, message = "NoUnderlayAddress", f"no IPv{family} node address, which this node's underlay needs"
        elif outer in self.own_points:
            reason, message = "OwnAddress", f"node address {outer} is this node's own"
        elif gateway is None:
            reason, message = "DuplicateGateway", "every address to route by belongs to another remote node too"
        elif has_known_mac:
            reason, message = "DuplicateMAC", "another node has the same tunnel MAC"
        else:
            return None
        return Problem(reason, peer.name, message, peer.cluster_name)


def local_elements(prefixes: Collection[Prefix]) -> Iterator[tuple[str, Element]]:
    for prefix in outermost(prefixes):
        last = prefix.high.to_bytes(BITS[prefix.family] // 8, "big")
        yield nftsets.local_set(prefix.family), nftsets.prefix_element(prefix.packed, last)


def remote_elements(prefixes: Collection[Prefix]) -> Iterator[tuple[str, Element]]:
    for prefix in outermost(prefixes):
        yield nftsets.remote_set(prefix.family, prefix.length), prefix.packed


def bound_elements(bound: Iterable[Bound]) -> Iterator[tuple[str, Element]]:
    for base, outer, prefixes in bound:
        yield base.nodes_set, outer
        for prefix in outermost(prefixes):
            name = nftsets.peers_set(base.underlay_family, base.family, prefix.length)
            yield name, nftsets.binding(outer, prefix.packed)


def _gateway(peer: Peer, prefixes: Sequence[Prefix], family: int, taken: set[tuple[int, Packed]]) -> Packed | None:
    """Address that stands for the node on the device: its tunnel address, else a network address of its own."""
    for point in peer.tunnel_addresses:
        if point.family == family and any(prefix.holds(point) for prefix in prefixes):
            address = point.packed
            if (family, address) not in taken:
                return address
    for prefix in prefixes:
        address = prefix.packed
        if (family, address) not in taken:
            return address
    return None
