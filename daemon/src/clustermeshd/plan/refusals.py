"""What of a peer was not admitted: how much by reason, and the first examples; never more than that is held.

A peer may give any number of objects that are refused, with names and contents as long as it likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from heapq import nsmallest
from typing import Final

from clustermeshd.kube import objects

EXAMPLES: Final = 20
"""Refused objects that a status names."""

OWN_KIND: Final = "RemoteClusterConfiguration"
_MAX_NAME = 253
_MAX_MESSAGE = 500


class Refusals:
    """Counts and examples; the same of the same refusals, whatever order they came in."""

    def __init__(self, refused: Iterable[objects.RefusedObject] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self._first: list[objects.RefusedObject] = []
        for one in refused:
            self.add(one.kind, one.name, one.reason, one.message)

    def add(self, kind: str, name: str, reason: str, message: str) -> None:
        self.merge({reason: 1}, (objects.RefusedObject(kind, name, reason, message),))

    def merge(self, counts: Mapping[str, int], examples: Iterable[objects.RefusedObject]) -> None:
        """Takes over what was counted elsewhere, with some of it as examples."""
        self.counts.update(counts)
        self._first += map(_short, examples)
        if len(self._first) > 5 * EXAMPLES:
            self._first = nsmallest(EXAMPLES, self._first, key=_rank)

    def copy(self) -> Refusals:
        made = Refusals()
        made.counts, made._first = self.counts.copy(), [*self._first]
        return made

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def examples(self) -> tuple[objects.RefusedObject, ...]:
        """The first of what was refused, the configuration's own mistakes before all."""
        return tuple(nsmallest(EXAMPLES, self._first, key=_rank))

    def __iter__(self) -> Iterator[objects.RefusedObject]:
        return iter(self.examples)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Refusals):
            return NotImplemented
        return (self.counts, self.examples) == (other.counts, other.examples)

    __hash__ = None  # type: ignore[assignment]  # it changes


def _short(refused: objects.RefusedObject) -> objects.RefusedObject:
    return objects.RefusedObject(
        refused.kind, refused.name[:_MAX_NAME], refused.reason, refused.message[:_MAX_MESSAGE]
    )


def _rank(refused: objects.RefusedObject) -> tuple[bool, str, str, str, str]:
    return refused.kind != OWN_KIND, refused.kind, refused.name, refused.reason, refused.message
