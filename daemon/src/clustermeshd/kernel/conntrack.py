"""Connections that were begun before our NAT rules knew their destination.

The first packet of a connection decides its NAT for good. What a pod sends to a remote pod before the mesh reaches it
gets the address of its node from the CNI, and what a node sends itself keeps that address, as long as they keep
sending: the other end of the tunnel refuses it. (Of masqueraded entries the kernel itself forgets those whose packets
leave by another device; of others it does not.) Forgetting such an entry lets the next packet decide again. Only
entries towards remote pods whose source is not what our rules would make of it are forgotten.
"""

from __future__ import annotations

import errno
import struct
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Set
from typing import Final, NamedTuple

from clustermeshd.kernel.messages import address_family
from clustermeshd.kernel.netlink import NESTED, Netlink, NetlinkError, Request, attribute, attributes
from clustermeshd.kernel.nftsets import prefix_mask
from clustermeshd.kernel.state import Element, Packed

_NFNETLINK: Final = 12
_HEADER: Final = struct.Struct("!BBH")  # nfgenmsg: family, version, resource id
# linux/netfilter/nfnetlink_conntrack.h
_GET, _DELETE = 0x101, 0x102
_ORIGINAL, _REPLY, _ID, _ZONE, _TUPLE_IP = 1, 2, 12, 18, 1
_SOURCE, _DESTINATION = {4: 1, 16: 3}, {4: 2, 16: 4}  # attribute types by address size


class Scope(NamedTuple):
    """What our NAT rules say for one address family: pods keep their address, the rest gets ``tunnel``, if any.

    ``local`` holds the first and last address of each prefix, ``remote`` the first ones by prefix length.
    """

    local: Collection[Element]
    remote: Mapping[int, Set[Packed]]
    tunnel: Packed | None


class Conntrack:
    """Connection tracking of the network namespace of the thread that makes this."""

    def __init__(self) -> None:
        self._netlink = Netlink(_NFNETLINK)

    def close(self) -> None:
        self._netlink.close()

    def forget(self, scope: Scope) -> int:
        """Remove entries towards remote pods that bear another source than our rules give; how many there were."""
        size = next((len(first) for prefixes in scope.remote.values() for first in prefixes), 0)
        if not size:
            return 0
        family = _HEADER.pack(address_family(bytes(size)), 0, 0)
        local, remote = _Ranges(scope.local), _Prefixes(scope.remote, size)
        stale = [
            (Request(_DELETE, 0, family + key), None)
            for entries in self._netlink.read(_GET, family)  # there may be a million
            for key in _stale(entries, size, local, remote, scope.tunnel)
        ]
        for rejected in self._netlink.batch(stale):
            if rejected.code != errno.ENOENT:  # it ended meanwhile
                raise NetlinkError(rejected.code, f"conntrack: {rejected.text}")
        return len(stale)


class _Ranges:
    """Disjoint ranges, to ask whether an address lies in one."""

    def __init__(self, elements: Collection[Element]) -> None:
        ordered = sorted(elements)
        self._lows = [element[: len(element) // 2] for element in ordered]
        self._highs = [element[len(element) // 2 :] for element in ordered]

    def __contains__(self, address: Packed) -> bool:
        place = bisect_right(self._lows, address) - 1
        return place >= 0 and address <= self._highs[place]


class _Prefixes:
    """Prefixes by length, to ask whether an address lies in one."""

    def __init__(self, prefixes: Mapping[int, Set[Packed]], size: int) -> None:
        bits = 8 * size
        self._size = size
        self._masked = [(prefix_mask(length, bits), found) for length, found in prefixes.items()]

    def __contains__(self, address: Packed) -> bool:
        number = int.from_bytes(address, "big")
        return any((number & mask).to_bytes(self._size, "big") in found for mask, found in self._masked)


def _stale(
    entries: Collection[bytes], size: int, local: _Ranges, remote: _Prefixes, tunnel: Packed | None
) -> Iterator[bytes]:
    """Keys (original tuple, id, zone) of entries whose source is not the one we want the other end to see."""
    source, destination = _SOURCE[size], _DESTINATION[size]
    for payload in entries:
        entry = attributes(payload, 4)
        reply = attributes(attributes(entry[_REPLY])[_TUPLE_IP])
        if reply[source] not in remote:
            continue
        sender = attributes(attributes(entry[_ORIGINAL])[_TUPLE_IP])[source]
        wanted = sender if sender in local else tunnel
        if wanted is not None and reply[destination] != wanted:
            yield b"".join(
                attribute(kind | (NESTED if kind == _ORIGINAL else 0), entry[kind])
                for kind in (_ORIGINAL, _ID, _ZONE)
                if kind in entry
            )
