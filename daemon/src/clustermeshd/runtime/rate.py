"""A token bucket: so many at once, so many a second after that."""

from __future__ import annotations

import time
from collections.abc import Callable


class Rate:
    """``per_s`` tokens come a second, ``burst`` are kept at most."""

    def __init__(self, per_s: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    @property
    def has_room(self) -> bool:
        """Whether something may be done now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        return self._tokens >= 1

    def take(self) -> None:
        """Uses a token up, whether there is one or not."""
        self._tokens -= 1
