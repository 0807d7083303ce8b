"""Delay and loss on a link, in user space: kernels without netem have nothing else.

The port of a node is taken off its cluster's bridge; this relay carries each Ethernet frame between the port (a packet
socket) and a TAP device on the bridge, and holds it back on the way. Both directions share one clock and one queue.
Offloads of the node's end are switched off while it runs, or frames of 64 KiB without checksums would pass through it.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

ETH_P_ALL = 0x0003
TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x0002 | 0x1000
SIOCETHTOOL = 0x8946
# ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO: what makes a frame differ from what a wire would carry
OFFLOADS = (0x17, 0x1F, 0x24)
FRAME_BYTES = 65536
MAX_QUEUED = 20000
CLONE_NEWNET = 0x40000000
PACKET_OUTGOING = 4


class Relay:
    """Frames between a port and a TAP device, each held back for a while."""

    def __init__(self, port: socket.socket, tap: int, delay_s: float, loss: float) -> None:
        self._port = port
        self._tap = tap
        self._delay_s = delay_s
        self._loss = loss
        self._queue: list[tuple[float, int, bool, bytes]] = []
        self._count = 0

    def run(self) -> None:
        """Until the process is told to end."""
        while True:
            wait = max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else None
            port = self._port.fileno()
            readable, _, _ = select.select([port, self._tap], [], [], wait)
            if port in readable:
                frame, address = self._port.recvfrom(FRAME_BYTES)
                if address[2] != PACKET_OUTGOING:
                    self._take(frame, to_bridge=True)
            if self._tap in readable:
                self._take(os.read(self._tap, FRAME_BYTES), to_bridge=False)
            self._deliver()

    def _take(self, frame: bytes, *, to_bridge: bool) -> None:
        if len(self._queue) >= MAX_QUEUED or random.random() < self._loss:  # noqa: S311
            return
        self._count += 1
        heapq.heappush(self._queue, (time.monotonic() + self._delay_s, self._count, to_bridge, frame))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now:
            _, _, to_bridge, frame = heapq.heappop(self._queue)
            try:
                if to_bridge:
                    os.write(self._tap, frame)
                else:
                    self._port.send(frame)
            except OSError:
                continue  # the link is down: a wire would lose the frame as well


def open_tap(name: str) -> int:
    """A TAP device of that name; it goes when its file is closed."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
    return tap


def set_offloads(device: str, *, on: bool) -> None:
    """Switch what a device may leave to hardware that is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, int(on)))
            request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, SIOCETHTOOL, request)


def set_peer_offloads(netns: str, *, on: bool) -> None:
    """The same for eth0 of another namespace; in a child, because a process cannot come back from there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(netns).open() as file:
                if libc.setns(file.fileno(), CLONE_NEWNET) == 0:
                    set_offloads("eth0", on=on)
                    status = 0
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        print(f"offloads of eth0 in {netns} could not be switched", flush=True)


def main() -> None:
    """Take the port off its bridge, relay, and give it back at the end."""
    told = json.loads(sys.argv[1])

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    tap = open_tap(told["tap"])
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    set_peer_offloads(told["peer_netns"], on=False)
    lines = [f"link set {told['port']} nomaster", f"link set {told['tap']} master {told['bridge']} up"]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    port.bind((told["port"], 0))
    Path(told["ready"]).touch()
    try:
        Relay(port, tap, told["delay_s"], told["loss"]).run()
    finally:
        set_peer_offloads(told["peer_netns"], on=True)
        os.close(tap)
        subprocess.run(["ip", "link", "set", told["port"], "master", told["bridge"]], check=False)


if __name__ == "__main__":
    main()
