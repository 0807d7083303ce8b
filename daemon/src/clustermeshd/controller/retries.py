"""When what failed is tried again: later each time; and where nobody answered, as soon as the server does again.

A server that is away for an hour costs no attempt then, and nobody waits for the end of a long pause when it is back:
the informers ask for it all the time. What gets no answer although others do is tried later each time, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Unreachable
from clustermeshd.model.errors import MeshError

_FIRST_S = 1.0
_MOST_S = 60.0
_LOOK_S = 0.5

K = TypeVar("K", bound=Hashable)


class Retries(Generic[K]):
    """``again`` is called with a key whose time has come, in the event loop."""

    def __init__(
        self, client: Client, again: Callable[[K], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._again, self._clock = client, again, clock
        self._times: dict[K, int] = {}  # that it was tried again in a row, whatever for
        self._stranded: dict[K, float] = {}  # since when
        self._look: asyncio.TimerHandle | None = None

    def failed(self, key: K, error: MeshError) -> bool:
        """Has it tried again; whether it is the first failure in a row."""
        is_first = key not in self._times
        times = self._times.setdefault(key, 0)
        if isinstance(error, Unreachable):
            self._stranded[key] = self._clock()
            self._look_later()
        else:
            self._times[key] = times + 1
            asyncio.get_running_loop().call_later(_pause_s(times), self._again, key)
        return is_first

    def succeeded(self, key: K) -> None:
        self._times.pop(key, None)
        self._stranded.pop(key, None)

    def _look_later(self) -> None:
        if self._stranded and self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._on_look)

    def _on_look(self) -> None:
        self._look = None
        now = self._clock()
        heard_at = now - self._client.silence_s
        for key, since in list(self._stranded.items()):
            times = self._times[key]
            if since < heard_at and (not times or now - since >= _pause_s(times - 1)):
                del self._stranded[key]
                self._times[key] = times + 1
                self._again(key)
        self._look_later()


def _pause_s(times: int) -> float:
    return min(_MOST_S, _FIRST_S * 2.0 ** min(times, 10))
