"""Elements of nftables sets by nfnetlink: read in bulk, changed by delta.

The nftables library reads a whole set before it changes one element; the kernel does not need that. For an interval
the kernel keeps two entries: the start, and one behind the end that is flagged NFT_SET_ELEM_INTERVAL_END.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from functools import cache
from itertools import islice
from typing import Final

from clustermeshd.kernel.layout import records
from clustermeshd.kernel.memory import Memory, fingerprint
from clustermeshd.kernel.netlink import NESTED, Netlink, NetlinkError, Request, attribute, attributes
from clustermeshd.kernel.nftdump import HEADER, INET, SUBSYSTEM, TABLE
from clustermeshd.kernel.state import Element

_NEW, _GET, _DELETE = (SUBSYSTEM << 8 | number for number in (12, 13, 14))
_BATCH_BEGIN, _BATCH_END = 16, 17
_CREATE: Final = 0x400
_SET, _ELEMENTS, _ELEMENT = 2, 3, 1
_KEY, _FLAGS, _VALUE = 1, 3, 1
_PATHS: Final = ((_KEY, _VALUE), (_FLAGS,))
_INTERVAL_END: Final = b"\0\0\0\1"
_MOST: Final = 400  # elements per message: an attribute holds 64 KiB, an interval of IPv6 takes 64 bytes


class Sets:
    """Element access to the sets of one table of family inet."""

    def __init__(self, netlink: Netlink, table: str) -> None:
        self._netlink, self._table = netlink, table.encode() + b"\0"
        self.memory = Memory()

    def read(self, name: str, *, is_interval: bool, expected: Set[Element] = frozenset()) -> Set[Element]:
        """All elements of a set; ``expected`` itself where it is equal, so that memory holds them once."""
        payloads = self._netlink.dump(_GET, self._header(name))
        data = b"".join(attributes(payload, 4).get(_ELEMENTS, b"") for payload in payloads)

        def parse() -> tuple[Set[Element], None]:
            found = [(key, flags) for key, flags in records(data, _PATHS) if key is not None]
            if is_interval:
                elements = frozenset(_paired(sorted((key, flags != _INTERVAL_END) for key, flags in found)))
            else:
                elements = frozenset(key for key, _ in found)
            return expected if elements == expected else elements, None

        return self.memory.recall(name, fingerprint([data]), parse)[0]

    def change(
        self,
        remove: Mapping[str, Collection[Element]],
        add: Mapping[str, Collection[Element]],
        intervals: Set[str],
    ) -> None:
        """Remove, then add, as one transaction: all or nothing. NetlinkError where the kernel refuses.

        ``intervals``: names of the sets that hold intervals.
        """
        batch = [Request(_BATCH_BEGIN, 0, HEADER.pack(0, 0, SUBSYSTEM))]
        for kind, flags, changed in ((_DELETE, 0, remove), (_NEW, _CREATE, add)):
            for name, elements in changed.items():
                batch += (
                    Request(kind, flags, self._header(name) + attribute(_ELEMENTS | NESTED, chunk))
                    for chunk in _chunks(elements, is_interval=name in intervals)
                )
        if len(batch) == 1:
            return
        batch.append(Request(_BATCH_END, 0, HEADER.pack(0, 0, SUBSYSTEM)))
        rejected = self._netlink.transaction(batch)
        if rejected:
            raise NetlinkError(rejected[0].code, f"set elements: {rejected[0].text}")

    def _header(self, name: str) -> bytes:
        return HEADER.pack(INET, 0, 0) + attribute(TABLE, self._table) + attribute(_SET, name.encode() + b"\0")


def _paired(entries: Iterable[tuple[bytes, bool]]) -> Iterator[Element]:
    """Elements from starts (True) and ends (False; the key behind the last), in order, ends before starts."""
    low: bytes | None = None
    for key, is_start in entries:
        if low is not None:
            yield low + _neighbour(key, -1)
        low = key if is_start else None
    if low is not None:
        yield low + b"\xff" * len(low)


def _neighbour(key: bytes, step: int) -> bytes:
    return (int.from_bytes(key, "big") + step).to_bytes(len(key), "big")


def _chunks(elements: Collection[Element], *, is_interval: bool) -> Iterator[bytes]:
    remaining = iter(elements)
    while chunk := list(islice(remaining, _MOST)):
        size = len(chunk[0]) // (2 if is_interval else 1)
        start = _head(size)
        if not is_interval:
            yield b"".join([start + element for element in chunk])
            continue
        end = _head(size, is_end=True)
        parts: list[bytes] = []
        for element in chunk:
            parts += (start, element[:size])
            if element[size:] != b"\xff" * size:
                parts += (end, _neighbour(element[size:], 1), _END)
        yield b"".join(parts)


_END: Final = attribute(_FLAGS, _INTERVAL_END)


@cache
def _head(size: int, *, is_end: bool = False) -> bytes:
    """What stands before the key of an entry; keys are whole words, so that nothing is padded."""
    key = attribute(_KEY | NESTED, attribute(_VALUE, bytes(size)))
    return attribute(_ELEMENT | NESTED, key + (_END if is_end else b""))[: 4 + len(key) - size]
