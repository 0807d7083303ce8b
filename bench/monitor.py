"""The benchmarks' own ear on route netlink: new IPv4 routes as the kernel tells of them."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator, Set
from typing import Final

from bench.report import BenchError

_RTMGRP_IPV4_ROUTE, _RTM_NEWROUTE, _RTA_DST = 0x40, 24, 1
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES: Final = 256 << 20
_HEADER, _ATTRIBUTE = struct.Struct("=IH"), struct.Struct("=HH")


class RouteMonitor:
    """Listens in the namespace of the thread that makes it; non-blocking."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((0, _RTMGRP_IPV4_ROUTE))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[bytes]:
        """Packed destinations of the routes made since the last call."""
        found: list[bytes] = []
        while True:
            try:
                found += _new_routes(self._socket.recv(1 << 16))
            except BlockingIOError:
                return found

    def wait_for(self, destinations: Set[bytes], timeout_s: float) -> float:
        """``time.perf_counter()`` when the last of these destinations had got a route."""
        left = set(destinations)
        deadline = time.monotonic() + timeout_s
        last = time.perf_counter()
        while left:
            if not select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BenchError(f"{len(left)} of {len(destinations)} routes are missing after {timeout_s:g} s")
            left.difference_update(self.read())
            last = time.perf_counter()
        return last


def _new_routes(data: bytes) -> Iterator[bytes]:
    start = 0
    while start + 16 <= len(data):
        length, kind = _HEADER.unpack_from(data, start)
        if kind == _RTM_NEWROUTE:
            at = start + 28  # behind nlmsghdr and rtmsg
            while at + 4 <= start + length:
                size, attribute = _ATTRIBUTE.unpack_from(data, at)
                if attribute == _RTA_DST:
                    yield data[at + 4 : at + size]
                    break
                at += (size + 3) & ~3
        start += (length + 3) & ~3
