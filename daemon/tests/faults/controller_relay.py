"""The line between the controller and one API server: cut, silent, slow or reset, for that pair alone."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

_CHUNK = 4096


class Relay:
    """Carries TCP connections to ``target``, a port of loopback. ``made`` counts connections that were accepted."""

    def __init__(self, target: int) -> None:
        self.made = 0
        self.target = target
        self._passes = threading.Event()
        self._passes.set()
        self._bytes_per_s = 0.0
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """A line as it should be, whatever it was before."""
        self._bytes_per_s = 0.0
        self._passes.set()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self.port = self._listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Nobody is there: what is open is reset, what comes is refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.reset()

    def reset(self) -> None:
        """Every open connection gets a RST."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
        self._passes.set()

    def hold(self) -> None:
        """Connections stay open, new ones are accepted, and no byte passes."""
        self._passes.clear()

    def slow(self, bytes_per_s: float) -> None:
        """What comes back passes at this rate at most."""
        self._bytes_per_s = bytes_per_s

    def close(self) -> None:
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self.made += 1
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open |= {near, far}
            for source, sink, is_back in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._carry, args=(source, sink, is_back), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_back: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._passes.wait()
                if is_back and self._bytes_per_s:
                    time.sleep(len(data) / self._bytes_per_s)
                sink.sendall(data)
        for one in (source, sink):
            self._open.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        source.close()
