"""A router's user-space relay for tunnel packets: loses, repeats and delays them, and so changes their order."""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import threading
import time

from kernel_topology import Namespace

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class Relay:
    """Takes the tunnel packets of IPv4 that ``router`` forwards; shares are of one, ``delay_s`` is the longest."""

    def __init__(
        self, router: Namespace, *, loss: float = 0, repeat: float = 0, delay_s: float = 0, seed: int = 1
    ) -> None:
        self._loss, self._repeat, self._delay_s, self._chance = loss, repeat, delay_s, random.Random(seed)
        self.lost = self.repeated = 0
        self._router = router
        self._tun = router.call(self._open)
        router.batch("""
            link set relay0 up
            route add default dev relay0 table 500
            rule add pref 500 iif to1 ipproto udp dport 4790 lookup 500
            rule add pref 500 iif to2 ipproto udp dport 4790 lookup 500""")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._router.batch("rule del pref 500\nrule del pref 500")
        self._stop.set()
        self._thread.join()
        os.close(self._tun)

    @staticmethod
    def _open() -> int:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"relay0", _IFF_TUN | _IFF_NO_PI))
        return tun

    def _work(self) -> None:
        waiting: list[tuple[float, int, bytes]] = []
        order = itertools.count()
        while not self._stop.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                os.write(self._tun, heapq.heappop(waiting)[2])
            rest_s = min(waiting[0][0] - now, 0.1) if waiting else 0.1
            if not select.select([self._tun], [], [], max(rest_s, 0))[0]:
                continue
            packet = os.read(self._tun, 65536)
            if self._chance.random() < self._loss:
                self.lost += 1
                continue
            copies = 1 + (self._chance.random() < self._repeat)
            self.repeated += copies - 1
            for _ in range(copies):
                heapq.heappush(
                    waiting, (time.monotonic() + self._chance.uniform(0, self._delay_s), next(order), packet)
                )
