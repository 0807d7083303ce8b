"""Attributes of many alike messages, fast: the places are found once, the rest is one ``struct`` call each.

Objects of one kind nearly all have the same attributes in the same order with the same lengths. Where each wanted one
stands is learned from the first message of a length; a later one counts as alike only when every byte outside the
wanted and the ignored places, attribute headers included, is the same. Any other message is read attribute by
attribute, so the result never depends on the guess.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

from clustermeshd.kernel.netlink import attributes

Path: TypeAlias = tuple[int, ...]  # attribute types from the outermost inwards
Span: TypeAlias = tuple[int, int]  # offset and size in bytes
Values: TypeAlias = tuple[bytes | None, ...]  # in the order they were asked for; None where there is none
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF


class _Layout(NamedTuple):
    unpack: Callable[[bytes], tuple[bytes, ...]]
    fixed: Callable[[tuple[bytes, ...]], Any]
    expected: Any
    pick: Callable[[Sequence[bytes | None]], Values]


class Reader:
    """Reads messages of one kind.

    ``header`` is their size before the attributes; ``spans`` are wanted places in it. ``paths`` are wanted attributes,
    ``ignored`` those whose content changes all the time and matters to nobody (ages, counters).
    """

    def __init__(
        self, header: int, paths: Sequence[Path], *, spans: Sequence[Span] = (), ignored: Sequence[Path] = ()
    ) -> None:
        self._header, self._paths, self._spans, self._ignored = header, tuple(paths), tuple(spans), tuple(ignored)
        self._layouts: dict[int, _Layout] = {}

    def read(self, message: bytes) -> Values:
        """Spans first, then attributes."""
        layout = self._layouts.get(len(message))
        if layout is not None:
            found = layout.unpack(message)
            if layout.fixed(found) == layout.expected:
                return layout.pick(found)
        return self._learn(message)

    def _learn(self, message: bytes) -> Values:
        places: list[Span | None] = list(self._spans)
        places += [_find(message, self._header, len(message), path) for path in self._paths]
        ignored = [_find(message, self._header, len(message), path) for path in self._ignored]
        self._layouts[len(message)] = _layout(message, places, [span for span in ignored if span])
        return tuple(None if place is None else message[place[0] : place[0] + place[1]] for place in places)


def records(data: bytes, paths: Sequence[Path]) -> Iterator[Values]:
    """Wanted attributes of every element of an attribute list."""
    reader = Reader(4, paths)
    start, end = 0, len(data)
    while start + 4 <= end:
        length = _ATTRIBUTE.unpack_from(data, start)[0]
        if length < 4:
            return
        yield reader.read(data[start : start + length])
        start += (length + 3) & ~3


def slowly(message: bytes, header: int, path: Path) -> bytes | None:
    """One attribute by its path, without any guess: what ``Reader`` must always agree with."""
    data: bytes | None = message[header:]
    for kind in path:
        data = attributes(data).get(kind) if data is not None else None
    return data


def _find(message: bytes, start: int, end: int, path: Path) -> Span | None:
    """Where the content of an attribute stands; the last of a type counts, as in ``attributes``."""
    found: Span | None = None
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        if length < 4 or start + length > end:
            break
        if kind & _TYPE_MASK == path[0]:
            found = (start + 4, length - 4)
        start += (length + 3) & ~3
    if found is None or len(path) == 1:
        return found
    return _find(message, found[0], sum(found), path[1:])


def _layout(message: bytes, places: Sequence[Span | None], ignored: Sequence[Span]) -> _Layout:
    wanted = sorted(place for place in places if place is not None)
    pieces: list[str] = []
    positions: dict[Span, int] = {}
    fixed: list[int] = []
    offset = count = 0
    for span in sorted([*wanted, *ignored]):
        pieces.append(f"{span[0] - offset}s")
        fixed.append(count)
        count += 1
        if span in wanted:
            positions[span] = count
            pieces.append(f"{span[1]}s")
            count += 1
        else:
            pieces.append(f"{span[1]}x")
        offset = sum(span)
    pieces.append(f"{len(message) - offset}s")
    fixed += [count, count]  # twice, so that there are always two to compare
    unpack = struct.Struct("=" + "".join(pieces)).unpack
    getter = itemgetter(*fixed)
    return _Layout(unpack, getter, getter(unpack(message)), _picker([positions.get(p) if p else None for p in places]))


def _picker(indexes: Sequence[int | None]) -> Callable[[Sequence[bytes | None]], Values]:
    if len(indexes) > 1 and None not in indexes:
        return itemgetter(*(index for index in indexes if index is not None))
    return lambda found: tuple(None if index is None else found[index] for index in indexes)
