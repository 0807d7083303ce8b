"""Work to be done, fair between those who cause it.

Every cause has a line of its own and the lines are served in turn, so that a peer that floods delays its own Services
and nobody else's. A key stands in a line once, however often it was caused; a key that is being worked on waits until
that is done; and one that was done a moment ago waits a little, so that a burst becomes one write.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class FairQueue(Generic[K]):
    """Keys by cause; ``pause_s`` lies at least between the end of one turn of a key and the begin of the next."""

    def __init__(self, *, pause_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._lines: OrderedDict[str, OrderedDict[K, None]] = OrderedDict()
        self._working: dict[K, set[str]] = {}  # key -> causes that came meanwhile
        self._resting: OrderedDict[K, float] = OrderedDict()  # key -> when it may be taken again
        self._later: OrderedDict[K, set[str]] = OrderedDict()  # resting keys that were caused again
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()  # one waits for the next key, the others for it: no herd wakes for each

    def __len__(self) -> int:
        """Keys that wait."""
        return sum(map(len, self._lines.values())) + len(self._later)

    def put(self, cause: str, key: K) -> None:
        if key in self._working:
            self._working[key].add(cause)
            return
        if key in self._resting:
            self._later.setdefault(key, set()).add(cause)
        else:
            self._lines.setdefault(cause, OrderedDict())[key] = None
        self._wake.set()

    async def take(self) -> K:
        """The next key; it is worked on until ``done``."""
        async with self._turn:
            while True:
                self._wake.clear()
                rest_s = self._end_rests()
                if self._lines:
                    return self._next()
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest_s):
                        await self._wake.wait()

    def done(self, key: K) -> None:
        again = self._working.pop(key)
        self._resting[key] = self._clock() + self._pause_s
        for cause in again:
            self.put(cause, key)
        self._wake.set()

    def _next(self) -> K:
        cause, line = next(iter(self._lines.items()))
        key, _ = line.popitem(last=False)
        self._lines.move_to_end(cause)
        for other in [cause, *self._lines]:
            keys = self._lines.get(other)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del self._lines[other]
        self._working[key] = set()
        return key

    def _end_rests(self) -> float | None:
        """Puts keys whose rest is over into their lines; seconds until the next one, None = there is none."""
        now = self._clock()
        while self._resting:
            key, until = next(iter(self._resting.items()))
            if until > now:
                return until - now if self._later else None
            del self._resting[key]
            for cause in self._later.pop(key, ()):
                self._lines.setdefault(cause, OrderedDict())[key] = None
        return None
