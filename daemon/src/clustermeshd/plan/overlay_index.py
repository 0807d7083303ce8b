"""Which claims of remote nodes meet: what tells whether one node can be planned without looking at the others."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Final

from clustermeshd.kernel.messages import FIRST_NEXTHOP
from clustermeshd.model.addresses import BITS, Point, Prefix
from clustermeshd.plan.overlay_claims import Peer

_FAMILIES: Final = (4, 6)
Owner = tuple[str, str, int]  # cluster id, node, inner family


def hashed_id(owner: Owner) -> int:
    """Nexthop id of a remote node: a hash of its identity, so that it is the same after every restart."""
    cluster_id, node, family = owner
    digest = hashlib.sha256(f"{cluster_id}/{node}/{family}".encode()).digest()
    return FIRST_NEXTHOP + int.from_bytes(digest[:4], "big") % FIRST_NEXTHOP


def nexthop_ids(
    peers: Iterable[Peer], families: Iterable[int], taken: frozenset[int]
) -> tuple[dict[Owner, int], frozenset[int]]:
    """Ids of all, and those that somebody got, or did not get, although the hash says otherwise.

    The next free one where two hashes meet or somebody else has it, always decided alike.
    """
    ids: dict[Owner, int] = {}
    odd: set[int] = set()
    used = set(taken)
    waiting = []
    for owner in owners(peers, families):
        number = hashed_id(owner)
        if number in used:
            waiting.append((owner, number))
        else:
            used.add(number)
            ids[owner] = number
    for owner, hashed in waiting:
        number = hashed
        while number in used:
            number = number + 1 if number + 1 < 2 * FIRST_NEXTHOP else FIRST_NEXTHOP
        used.add(number)
        odd |= {hashed, number}
        ids[owner] = number
    return ids, frozenset(odd)


def owners(peers: Iterable[Peer], families: Iterable[int]) -> list[Owner]:
    """Who may need a nexthop, in an order that depends on nothing but them."""
    wanted = tuple(families)
    return sorted({(peer.cluster_id, peer.node, family) for peer in peers for family in wanted})


class Claims:
    """What every remote node claims, refused or not: prefixes, node addresses, tunnel MAC and identity."""

    def __init__(self) -> None:
        self._prefixes: dict[int, list[int]] = {4: [], 6: []}  # low << 8 | length, sorted
        self._lengths: dict[int, dict[int, int]] = {4: {}, 6: {}}  # how many of each
        self._points: dict[int, list[int]] = {4: [], 6: []}  # sorted
        self._marks = array("q")  # MACs and identities of all, as hashes, sorted

    def add(self, peer: Peer) -> None:
        """Without order; ``settle`` once after the last."""
        for prefix in peer.prefixes:
            self._prefixes[prefix.family].append(_packed(prefix))
            self._count_length(prefix, 1)
        for point in peer.addresses:
            self._points[point.family].append(point.number)
        self._marks.extend(_marks(peer))

    def settle(self) -> None:
        for family in _FAMILIES:
            self._prefixes[family].sort()
            self._points[family].sort()
        self._marks = array("q", sorted(self._marks))

    def insert(self, peer: Peer) -> None:
        """Add one in order."""
        for prefix in peer.prefixes:
            insort(self._prefixes[prefix.family], _packed(prefix))
            self._count_length(prefix, 1)
        for point in peer.addresses:
            insort(self._points[point.family], point.number)
        for mark in _marks(peer):
            insort(self._marks, mark)

    def remove(self, peer: Peer) -> None:
        """Take out one that was added as it is."""
        for prefix in peer.prefixes:
            held = self._prefixes[prefix.family]
            del held[bisect_left(held, _packed(prefix))]
            self._count_length(prefix, -1)
        for point in peer.addresses:
            numbers = self._points[point.family]
            del numbers[bisect_left(numbers, point.number)]
        for mark in _marks(peer):
            del self._marks[bisect_left(self._marks, mark)]

    def meets(self, peer: Peer) -> bool:
        """Whether a node that is not in here claims anything that one in here does."""
        return (
            any(self._has(mark) for mark in _marks(peer))
            or any(self._meets_prefix(prefix) or self._covers_point(prefix) for prefix in peer.prefixes)
            or any(self._meets_point(point) for point in peer.addresses)
        )

    def _has(self, mark: int) -> bool:
        place = bisect_left(self._marks, mark)
        return place < len(self._marks) and self._marks[place] == mark

    def _count_length(self, prefix: Prefix, step: int) -> None:
        lengths = self._lengths[prefix.family]
        lengths[prefix.length] = lengths.get(prefix.length, 0) + step

    def _meets_prefix(self, prefix: Prefix) -> bool:
        held = self._prefixes[prefix.family]
        place = bisect_left(held, prefix.low << 8)
        inside = place < len(held) and held[place] >> 8 <= prefix.high
        return inside or self._is_covered(prefix.family, prefix.low, prefix.length)

    def _meets_point(self, point: Point) -> bool:
        numbers = self._points[point.family]
        place = bisect_left(numbers, point.number)
        is_shared = place < len(numbers) and numbers[place] == point.number
        return is_shared or self._is_covered(point.family, point.number, BITS[point.family])

    def _covers_point(self, prefix: Prefix) -> bool:
        numbers = self._points[prefix.family]
        place = bisect_left(numbers, prefix.low)
        return place < len(numbers) and numbers[place] <= prefix.high

    def _is_covered(self, family: int, low: int, length: int) -> bool:
        held = self._prefixes[family]
        for shorter, count in self._lengths[family].items():
            if not count or shorter > length:
                continue
            shift = BITS[family] - shorter
            wanted = (low >> shift << shift) << 8 | shorter
            place = bisect_left(held, wanted)
            if place < len(held) and held[place] == wanted:
                return True
        return False


def _packed(prefix: Prefix) -> int:
    return prefix.low << 8 | prefix.length


def _marks(peer: Peer) -> Iterator[int]:
    yield hash(peer.mac)
    yield hash((peer.cluster_id, peer.node))
