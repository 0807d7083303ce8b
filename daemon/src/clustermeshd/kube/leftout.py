"""Objects of one kind that a server has and that are not held here, and why: counted, the first ones by name.

A server may have any number of them; beyond ``_REMEMBERED`` names only what comes and goes is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from typing import NamedTuple

_REMEMBERED = 1_000
_EXAMPLES = 20
_MAX_TEXT = 500


class Why(NamedTuple):
    """``reason`` is a stable word, ``message`` is for people."""

    reason: str
    message: str


class LeftOut:
    """``counts`` by reason, and some by name; an object that could not even be named has the name ``""``."""

    def __init__(self) -> None:
        self._known: dict[str, Why] = {}
        self._more: Counter[str] = Counter()

    def add(self, key: str, why: Why, *, is_new: bool = True) -> None:
        """Takes note of an object; one that is not remembered by its name counts where it ``is_new``."""
        key = key[:_MAX_TEXT]
        if (key and key in self._known) or (key not in self._known and len(self._known) < _REMEMBERED):
            self._known[key] = Why(why.reason, why.message[:_MAX_TEXT])
        elif is_new:
            self._more[why.reason] += 1

    def drop(self, key: str) -> bool:
        """An object is held now, or gone; whether it was known by its name."""
        return self._known.pop(key[:_MAX_TEXT], None) is not None

    def drop_unnamed(self) -> None:
        """An object is gone that is neither held nor known by its name."""
        reason = next(iter(self._more), None)
        if reason is not None:
            self._more[reason] -= 1
            self._more += Counter()  # without those that are none any more

    @property
    def counts(self) -> Counter[str]:
        return Counter(why.reason for why in self._known.values()) + self._more

    def __iter__(self) -> Iterator[tuple[str, Why]]:
        """The first by name."""
        for key in nsmallest(_EXAMPLES, self._known):
            yield key, self._known[key]
