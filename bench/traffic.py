"""One end of the traffic of ``restart-loss``; runs inside a pod's namespace as a program of its own.

``traffic.py OWN PEER OWN6 PEER6 connect|listen``: numbered UDP packets to the peer, 1,000 a second, and one TCP stream
over IPv6 from the end that connects. It says "ready", starts at the line "go", stops at the line "stop", and prints
one JSON object at the next line.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time

_UDP_PORT, _TCP_PORT = 7100, 7101
PER_S = 1000  # packets
_BUFFER_BYTES = 16 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_CHUNK = b"x" * 10_000
_CHUNK_PERIOD_S = 0.01
_TOTAL_RETRANS = 100  # offset in struct tcp_info


class Udp:
    """Sends numbers, and keeps which of the peer's numbers came."""

    def __init__(self, own: str, peer: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)  # a late reader loses nothing
        self._socket.bind((own, _UDP_PORT))
        self._socket.connect((peer, _UDP_PORT))
        self.sent, self.received = 0, set[int]()
        threading.Thread(target=self._receive, daemon=True).start()

    def send(self, stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.is_set():
            try:
                self._socket.send(struct.pack("!Q", self.sent))
            except OSError as error:  # counts as lost: it has its number
                print(f"packet {self.sent}: {error}", file=sys.stderr)
            self.sent += 1
            due += 1 / PER_S
            time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self) -> None:
        while True:
            try:
                self.received.add(struct.unpack("!Q", self._socket.recv(64))[0])
            except OSError:  # an ICMP error about one of ours
                continue


class Tcp:
    """One long stream in small pieces."""

    def __init__(self, own: str, peer: str, *, connects: bool) -> None:
        self.bytes, self.retransmitted = 0, 0
        if connects:
            self._socket = socket.create_connection((peer, _TCP_PORT), timeout=10)
            return
        listener = socket.create_server((own, _TCP_PORT), family=socket.AF_INET6)
        print("listening", flush=True)
        self._socket, _ = listener.accept()
        self._reader = threading.Thread(target=self._receive, daemon=True)
        self._reader.start()

    def send(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._socket.sendall(_CHUNK)
            self.bytes += len(_CHUNK)
            time.sleep(_CHUNK_PERIOD_S)
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        self.retransmitted = struct.unpack_from("=I", info, _TOTAL_RETRANS)[0]
        self._socket.shutdown(socket.SHUT_WR)

    def wait(self) -> None:
        self._reader.join(10)

    def _receive(self) -> None:
        while data := self._socket.recv(1 << 16):
            self.bytes += len(data)


def main(own: str, peer: str, own6: str, peer6: str, way: str) -> None:
    connects = way == "connect"
    udp, tcp = Udp(own, peer), Tcp(own6, peer6, connects=connects)
    print("ready", flush=True)
    stop = threading.Event()
    sys.stdin.readline()
    senders = [threading.Thread(target=udp.send, args=(stop,))]
    senders += [threading.Thread(target=tcp.send, args=(stop,))] if connects else []
    for sender in senders:
        sender.start()
    sys.stdin.readline()
    stop.set()
    for sender in senders:
        sender.join()
    print("stopped", flush=True)
    sys.stdin.readline()  # by now the other end has stopped too
    if not connects:
        tcp.wait()
    time.sleep(0.5)  # the last packets are under way
    found = {"sent": udp.sent, "received": len(udp.received), "bytes": tcp.bytes, "retransmitted": tcp.retransmitted}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
