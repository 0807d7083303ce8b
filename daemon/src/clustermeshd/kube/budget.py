"""How much of a peer is held, all kinds together: a share for each kind, and one limit.

Counted is what is kept of an object, as JSON; in memory that is one to two times as much. While a kind is listed
again the larger of what is held and what was read counts.
"""

from __future__ import annotations

import msgspec

from clustermeshd.kube import objects

_ENCODER = msgspec.json.Encoder()


def weight(thing: objects.Object) -> int:
    """Bytes that an object counts for."""
    return len(_ENCODER.encode(thing))


class Budget:
    """Bytes that the shares have together at most."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._shares: list[Share] = []

    def share(self) -> Share:
        """A further share; it lives as long as the budget."""
        made = Share(self)
        self._shares.append(made)
        return made

    @property
    def used_bytes(self) -> int:
        return sum(share.bytes for share in self._shares)


class Share:
    """What one kind has of a budget: ``held`` in its store, ``listed`` by a list that goes on."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0
        self.listed = 0

    @property
    def bytes(self) -> int:
        return max(self.held, self.listed)

    @property
    def limit_bytes(self) -> int:
        return self._budget.limit_bytes

    def list(self, thing: objects.Object) -> bool:
        """Counts an object that was listed; False where there is no room for it."""
        size = weight(thing)
        if self._budget.used_bytes - self.bytes + max(self.held, self.listed + size) > self._budget.limit_bytes:
            return False
        self.listed += size
        return True

    def swap(self, old: objects.Object | None, new: objects.Object | None, *, is_listed: bool = False) -> bool:
        """Counts ``new`` in place of ``old``; False, and nothing is counted, where there is no room for it.

        What ``is_listed`` was counted before, and has room.
        """
        change = (0 if new is None else weight(new)) - (0 if old is None else weight(old))
        grown = max(self.held + change, self.listed)
        if change > 0 and not is_listed and self._budget.used_bytes - self.bytes + grown > self._budget.limit_bytes:
            return False
        self.held += change
        return True
