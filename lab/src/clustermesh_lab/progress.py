"""Lines that say what happens and how long it took, on standard error."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_start = time.monotonic()
_lock = threading.Lock()
_sink: list[Callable[[str], None]] = []


def to_stderr(line: str) -> None:
    """What the command uses; a program that imports the lab hears nothing unless it asks for it."""
    with _lock:
        sys.stderr.write(f"{time.monotonic() - _start:6.1f}s  {line}\n")
        sys.stderr.flush()


def report_to(sink: Callable[[str], None] | None) -> None:
    """Send progress lines there; None silences them."""
    _sink[:] = [sink] if sink else []


def say(line: str) -> None:
    """One progress line."""
    for sink in _sink:
        sink(line)


@contextmanager
def step(what: str, *, every_s: float = 15) -> Iterator[None]:
    """Say when something starts to take long, that it still goes on, and how long it took."""
    began = time.monotonic()
    done = threading.Event()

    def remind() -> None:
        while not done.wait(every_s):
            say(f"{what}: still at it after {time.monotonic() - began:.0f} s")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
        say(f"{what} ({time.monotonic() - began:.1f} s)")
    finally:
        done.set()
