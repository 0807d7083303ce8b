"""Elements of nftables interval sets by nfnetlink: read in bulk, changed by delta.

The nftables library reads a whole set before it changes one element; the kernel does not need that. An element is one
``Interval``: its lowest and its highest key, both of the set's key length, one behind the other. In a set of one field
the kernel keeps two entries for it (the start, and one behind the end), in a set of several fields one entry with two
keys (linux/netfilter/nf_tables.h, NFTA_SET_ELEM_KEY_END).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from clustermeshd.kernel.layout import records
from clustermeshd.kernel.netlink import NESTED, Netlink, NetlinkError, Request, attribute, attributes
from clustermeshd.kernel.state import Interval

NFNETLINK: Final = 12  # NETLINK_NETFILTER
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_NEW, _GET, _DELETE = (_SUBSYSTEM << 8 | number for number in (12, 13, 14))
_BATCH_BEGIN, _BATCH_END = 16, 17
_INET: Final = 1  # NFPROTO_INET
_CREATE: Final = 0x400
_HEADER: Final = struct.Struct("!BBH")  # nfgenmsg: family, version, resource id
_TABLE, _SET, _ELEMENTS, _ELEMENT = 1, 2, 3, 1
_KEY, _FLAGS, _KEY_END, _VALUE = 1, 3, 10, 1
_INTERVAL_END: Final = b"\0\0\0\1"
_MOST: Final = 400  # elements per message: an attribute holds 64 KiB


class Sets:
    """Element access to the sets of one table of family inet."""

    def __init__(self, netlink: Netlink, table: str) -> None:
        self._netlink, self._table = netlink, table.encode() + b"\0"

    def read(self, name: str, *, fields: int) -> frozenset[Interval]:
        """All elements of a set that has ``fields`` fields in its key."""
        found: list[tuple[bytes, bytes]] = []
        for payload in self._netlink.dump(_GET, self._header(name)):
            data = attributes(payload, 4).get(_ELEMENTS, b"")
            found += ((key or b"", end or b"") for key, end in records(data, _locate(fields)))
        if fields > 1:
            return frozenset(key + end for key, end in found)
        return frozenset(_paired(sorted((key, flags != _INTERVAL_END) for key, flags in found)))

    def change(
        self,
        remove: Mapping[str, Collection[Interval]],
        add: Mapping[str, Collection[Interval]],
        fields: Mapping[str, int],
    ) -> None:
        """Remove, then add, as one transaction: all or nothing. NetlinkError where the kernel refuses."""
        batch = [Request(_BATCH_BEGIN, 0, _HEADER.pack(0, 0, _SUBSYSTEM))]
        for kind, flags, changed in ((_DELETE, 0, remove), (_NEW, _CREATE, add)):
            for name, intervals in changed.items():
                batch += (
                    Request(kind, flags, self._header(name) + attribute(_ELEMENTS | NESTED, chunk))
                    for chunk in _chunks(intervals, fields[name])
                )
        if len(batch) == 1:
            return
        batch.append(Request(_BATCH_END, 0, _HEADER.pack(0, 0, _SUBSYSTEM)))
        rejected = self._netlink.transaction(batch)
        if rejected:
            raise NetlinkError(rejected[0].code, f"set elements: {rejected[0].text}")

    def _header(self, name: str) -> bytes:
        return _HEADER.pack(_INET, 0, 0) + attribute(_TABLE, self._table) + attribute(_SET, name.encode() + b"\0")


def _locate(fields: int) -> dict[str, tuple[int, ...]]:
    """Paths of attributes in one element: the key, and what tells where the interval ends."""
    return {"key": (_KEY, _VALUE), "end": (_KEY_END, _VALUE) if fields > 1 else (_FLAGS,)}


def _paired(entries: Iterable[tuple[bytes, bool]]) -> Iterator[Interval]:
    """Intervals from starts (True) and ends (False; the key behind the last), in order, ends before starts."""
    low: bytes | None = None
    for key, is_start in entries:
        if low is not None:
            yield low + _neighbour(key, -1)
        low = key if is_start else None
    if low is not None:
        yield low + b"\xff" * len(low)


def _neighbour(key: bytes, step: int) -> bytes:
    return (int.from_bytes(key, "big") + step).to_bytes(len(key), "big")


def _chunks(intervals: Collection[Interval], fields: int) -> Iterator[bytes]:
    entries = (entry for interval in intervals for entry in _entries(interval, fields))
    chunk: list[bytes] = []
    for entry in entries:
        chunk.append(entry)
        if len(chunk) == _MOST:
            yield b"".join(chunk)
            chunk.clear()
    if chunk:
        yield b"".join(chunk)


def _entries(interval: Interval, fields: int) -> Iterator[bytes]:
    size = len(interval) // 2
    low, high = interval[:size], interval[size:]
    if fields > 1:
        yield _entry(_key(_KEY, low) + _key(_KEY_END, high))
        return
    yield _entry(_key(_KEY, low))
    if high != b"\xff" * size:
        yield _entry(_key(_KEY, _neighbour(high, 1)) + attribute(_FLAGS, _INTERVAL_END))


def _entry(body: bytes) -> bytes:
    return attribute(_ELEMENT | NESTED, body)


def _key(kind: int, value: bytes) -> bytes:
    return attribute(kind | NESTED, attribute(_VALUE, value))
