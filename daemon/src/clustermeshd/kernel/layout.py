"""Attributes of many alike messages, fast: the places are found once, the rest is column by column.

Objects of one kind nearly all have the same attributes in the same order with the same lengths. Where each wanted one
stands is learned from the first message of a length; the others count as alike only when every byte outside the
wanted and the ignored places, attribute headers included, is the same in all of them. Else each message is read
attribute by attribute, so the result never depends on the guess.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from clustermeshd.kernel.netlink import attributes

Path: TypeAlias = tuple[int, ...]  # attribute types from the outermost inwards
Span: TypeAlias = tuple[int, int]  # offset and size in bytes
Values: TypeAlias = tuple[bytes | None, ...]  # in the order they were asked for; None where there is none
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
_AT_ONCE: Final = 1000  # messages: every value of every one of them is in memory at a time


class _Layout(NamedTuple):
    struct: struct.Struct
    fixed: frozenset[int]  # places in what it unpacks that must be the same in every message
    wanted: tuple[int | None, ...]  # places of the wanted ones; None for one that this layout does not have


class Reader:
    """Reads messages of one kind.

    ``header`` is their size before the attributes; ``spans`` are wanted places in it. ``paths`` are wanted attributes,
    ``ignored`` those whose content changes all the time and matters to nobody (ages, counters).
    """

    def __init__(
        self, header: int, paths: Sequence[Path], *, spans: Sequence[Span] = (), ignored: Sequence[Path] = ()
    ) -> None:
        self._header, self._paths, self._spans, self._ignored = header, tuple(paths), tuple(spans), tuple(ignored)

    def read(self, messages: Iterable[bytes]) -> Iterator[Values]:
        """Of each message the spans first, then the attributes; in any order of messages."""
        for alike in _by_length(messages):
            for start in range(0, len(alike), _AT_ONCE):
                some = alike[start : start + _AT_ONCE]
                yield from self._alike(some) or map(self._one, some)

    def steady(self, messages: Iterable[bytes]) -> Iterable[bytes]:
        """The same messages without what is ignored, as pieces: to tell whether anything has changed."""
        for alike in _by_length(messages):
            ignored = [_find(alike[0], self._header, len(alike[0]), path) for path in self._ignored]
            layout = _layout(alike[0], [], [span for span in ignored if span])
            if layout is None:
                yield from alike
            else:
                yield from chain.from_iterable(layout.struct.iter_unpack(b"".join(alike)))

    def _one(self, message: bytes) -> Values:
        places = self._places(message)
        return tuple(None if place is None else message[place[0] : place[0] + place[1]] for place in places)

    def _alike(self, messages: Sequence[bytes]) -> list[Values] | None:
        """Messages of one length, column by column; None where they are not alike."""
        first = messages[0]
        ignored = [_find(first, self._header, len(first), path) for path in self._ignored]
        layout = _layout(first, self._places(first), [span for span in ignored if span])
        if layout is None:
            return None
        columns = list(zip(*layout.struct.iter_unpack(b"".join(messages)), strict=True))
        if any(columns[place].count(columns[place][0]) != len(messages) for place in layout.fixed):
            return None
        nothing = (None,) * len(messages)
        return list(zip(*(nothing if place is None else columns[place] for place in layout.wanted), strict=True))

    def _places(self, message: bytes) -> list[Span | None]:
        return [*self._spans, *(_find(message, self._header, len(message), path) for path in self._paths)]


def _by_length(messages: Iterable[bytes]) -> Collection[list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for message in messages:
        found.setdefault(len(message), []).append(message)
    return found.values()


def records(data: bytes, paths: Sequence[Path]) -> Iterator[Values]:
    """Wanted attributes of every element of an attribute list; in any order of elements."""
    elements = []
    start, end = 0, len(data)
    while start + 4 <= end:
        length = _ATTRIBUTE.unpack_from(data, start)[0]
        if length < 4:
            break
        elements.append(data[start : start + length])
        start += (length + 3) & ~3
    return Reader(4, paths).read(elements)


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


def _layout(message: bytes, places: Sequence[Span | None], ignored: Sequence[Span]) -> _Layout | None:
    """How to take such a message apart; None where wanted places touch each other."""
    wanted = {place for place in places if place is not None}
    pieces: list[str] = []
    positions: dict[Span, int] = {}
    fixed: set[int] = set()
    offset = count = 0
    for span in sorted(wanted.union(ignored)):
        if span[0] < offset:
            return None
        pieces.append(f"{span[0] - offset}s")
        fixed.add(count)
        count += 1
        if span in wanted:
            positions[span] = count
            pieces.append(f"{span[1]}s")
            count += 1
        else:
            pieces.append(f"{span[1]}x")
        offset = sum(span)
    pieces.append(f"{len(message) - offset}s")
    fixed.add(count)
    places_of = tuple(positions[place] if place is not None else None for place in places)
    return _Layout(struct.Struct("=" + "".join(pieces)), frozenset(fixed), places_of)
