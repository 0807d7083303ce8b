"""Traffic for the tests: an echo server that tells whom it saw, crafted tunnel packets, and a capture."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import ip_address

from kernel_topology import Namespace

_ECHO = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM); s.bind((sys.argv[1], 7000)); print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(peer[0].encode(), peer)
"""
_TCP = """
import socket, sys
s = socket.create_server((sys.argv[1], 7000), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("ready", flush=True)
while True:
    c, peer = s.accept()
    n = 0
    while data := c.recv(65536): n += len(data)
    c.sendall(f"{n} {peer[0]}".encode()); c.close()
"""


class _Server:
    def __init__(self, program: str, space: Namespace, address: str) -> None:
        self._process = space.popen(sys.executable, "-c", program, address)
        assert self._process.stdout.readline().strip() == "ready"

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


class Echo(_Server):
    """UDP: answers with the source address it saw."""

    def __init__(self, space: Namespace, address: str) -> None:
        super().__init__(_ECHO, space, address)


class Sink(_Server):
    """TCP: answers with the number of bytes received and the source address."""

    def __init__(self, space: Namespace, address: str) -> None:
        super().__init__(_TCP, space, address)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def ask(space: Namespace, address: str, timeout_s: float = 2) -> str:
    """Source address that the echo server at ``address`` saw; "none" where no answer came."""
    with space.call(lambda: socket.socket(family_of(address), socket.SOCK_DGRAM)) as client:
        client.settimeout(timeout_s)
        client.connect((address, 7000))
        client.send(b"who am i")
        try:
            return client.recv(200).decode()
        except OSError as error:
            return f"none: {error}"


def send_tcp(space: Namespace, address: str, size: int, *, timeout_s: float = 5) -> tuple[str, int]:
    """Send ``size`` bytes to a sink; its answer and the largest segment the connection may send."""
    with space.call(lambda: socket.socket(family_of(address), socket.SOCK_STREAM)) as client:
        client.settimeout(timeout_s)
        client.connect((address, 7000))
        segment = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        client.sendall(b"x" * size)
        client.shutdown(socket.SHUT_WR)
        return client.recv(200).decode(), segment


def opens_tcp(space: Namespace, address: str, timeout_s: float = 2) -> bool:
    """Whether a connection to port 7000 there comes about."""
    with space.call(lambda: socket.socket(family_of(address), socket.SOCK_STREAM)) as client:
        client.settimeout(timeout_s)
        return client.connect_ex((address, 7000)) == 0


def tunnel_packet(vni: int, mac: bytes, source: str, destination: str, text: bytes = b"forged") -> bytes:
    """A VXLAN payload that carries one UDP packet to port 7000."""
    src, dst = ip_address(source), ip_address(destination)
    pseudo = src.packed + dst.packed
    length = 8 + len(text)
    udp = struct.pack("!HHHH", 9, 7000, length, 0)
    if src.version == 4:
        pseudo += struct.pack("!BBH", 0, 17, length)
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, 17, 0) + src.packed + dst.packed
        header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
        kind = 0x0800
    else:
        pseudo += struct.pack("!IHBB", length, 0, 0, 17)
        header = struct.pack("!IHBB", 6 << 28, length, 17, 64) + src.packed + dst.packed
        kind = 0x86DD
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp + text) or 0xFFFF)
    ethernet = mac + b"\x0e\0\0\0\0\x01" + struct.pack("!H", kind)
    return struct.pack("!II", 0x08000000, vni << 8) + ethernet + header + udp + text


def send_udp(space: Namespace, destination: str, port: int, payload: bytes) -> None:
    with space.call(lambda: socket.socket(family_of(destination), socket.SOCK_DGRAM)) as sender:
        sender.sendto(payload, (destination, port))


class Inbox:
    """A UDP socket on port 7000 inside a namespace."""

    def __init__(self, space: Namespace, address: str) -> None:
        self._socket = space.call(lambda: socket.socket(family_of(address), socket.SOCK_DGRAM))
        self._socket.bind((address, 7000))

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def take(self, timeout_s: float) -> tuple[bytes, str] | None:
        """Payload and source of the next packet; None where none comes."""
        self._socket.settimeout(timeout_s)
        try:
            data, peer = self._socket.recvfrom(2000)
        except TimeoutError:
            return None
        return data, peer[0]


class Capture:
    """Raw frames of one device of a namespace."""

    def __init__(self, space: Namespace, device: str) -> None:
        self._socket = space.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self._socket.bind((device, 0))
        self._socket.settimeout(0.2)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def frames(self) -> list[bytes]:
        """All frames so far."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096))
            except TimeoutError:
                return found


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
