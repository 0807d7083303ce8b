"""sd_notify(3): readiness, status text and watchdog of a systemd service.

A datagram to the socket named by NOTIFY_SOCKET; without that variable every call does nothing, so the same daemon runs
in a container or a terminal.
"""

from __future__ import annotations

import os
import socket
from typing import Final

_PATIENCE_S: Final = 60  # how long a start may go on after a sign of life


class Notifier:
    """Speaks to the service manager; ``watchdog_interval_s`` is how often it wants a sign of life, or None."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        env = os.environ if environment is None else environment
        path = env.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        usec = env.get("WATCHDOG_USEC", "")
        self.watchdog_interval_s = int(usec) / 3e6 if usec.isdigit() and int(usec) > 0 else None
        self._last_status = ""
        self._is_ready = False

    def ready(self) -> None:
        """The first complete sync is done."""
        self._is_ready = True
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for people (``systemctl status``); sent only when it changes."""
        line = " ".join(text.split())
        if line != self._last_status:
            self._last_status = line
            self._send(f"STATUS={line}")

    def alive(self) -> None:
        """To be called from the loop that does the real work, or waits for it.

        Until the service is ready its manager looks at no watchdog, but at the time that the start takes.
        """
        if not self._is_ready:
            self._send(f"EXTEND_TIMEOUT_USEC={_PATIENCE_S * 1_000_000}")
        elif self.watchdog_interval_s is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                # never waits: a manager that does not read must not hold up the work
                sock.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
            except OSError:  # the manager is gone or busy; the next message tells
                return
