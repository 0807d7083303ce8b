"""Lets one netlink call of a kernel go wrong, chosen by its number.

A call is one route netlink message (each message of a batch counts), one nfnetlink transaction, or one command of the
nftables library. Everything else goes to the real kernel, so that what a test sees between two calls is real.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from clustermeshd.kernel.dataplane import Kernel
from clustermeshd.kernel.libnftables import Nft, NftError

_HEADER = struct.Struct("=IHHII")
_NOOP, _ERROR, _BATCH_BEGIN = 1, 2, 16
_F_REQUEST_ACK, _F_DUMP_INTR = 0x05, 0x10


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process runs after it."""


@dataclass(frozen=True)
class Fault:
    """``refuse``: the kernel answers ``code``. ``send``: the system call fails with it and nothing is delivered.

    ``lose``: delivered, but the replies overrun the buffer. ``interrupt``: a dump is marked as changed underneath.
    ``close``: the socket is gone. ``kill``: the process ends before the call.
    """

    how: str
    code: int = 0

    def __str__(self) -> str:
        return f"{self.how}-{errno.errorcode[self.code]}" if self.code else self.how


class Faults:
    """Counts the calls of ``kernel``; call ``number`` (from 1; 0: none) meets ``fault``."""

    def __init__(self, kernel: Kernel, fault: Fault = Fault("refuse", errno.ENOMEM), number: int = 0) -> None:
        self.fault, self.number, self.calls = fault, number, 0
        for netlink in (kernel._netlink, kernel._table._netlink):
            netlink.socket = _Socket(netlink.socket, self)
        self._wrap(kernel._table._nft)

    def is_next(self) -> bool:
        self.calls += 1
        if self.calls != self.number:
            return False
        if self.fault.how == "kill":
            raise Killed
        return True

    def _wrap(self, nft: Nft) -> None:
        original = nft.run

        def run(commands: str) -> None:
            if self.is_next() and self.fault.how in ("refuse", "send"):
                raise NftError(f"Error: {errno.errorcode[self.fault.code]}")
            original(commands)

        nft.run = run


class _Socket:
    def __init__(self, real: socket.socket, faults: Faults) -> None:
        self._real, self._faults = real, faults
        self._refused = self._interrupted = self._is_lost = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def send(self, data: bytes) -> int:
        delivered = bytearray()
        try:
            for message in _calls(data):
                delivered += self._harm(message) if self._faults.is_next() else message
        except Killed:
            if delivered:
                self._real.send(delivered)
            raise
        return self._real.send(delivered)

    def _harm(self, message: bytes) -> bytes:
        fault, sequence = self._faults.fault, _HEADER.unpack_from(message)[3]
        match fault.how:
            case "send":
                raise OSError(fault.code, errno.errorcode[fault.code])
            case "close":
                self._real.close()
            case "lose":
                self._is_lost = 1
            case "interrupt":
                self._interrupted = sequence
            case "refuse":  # a message that does nothing but is answered; the answer becomes an error on its way back
                self._refused = sequence
                return _HEADER.pack(16, _NOOP, _F_REQUEST_ACK, sequence, 0)
        return message

    def recv(self, size: int) -> bytes:
        if self._is_lost:
            self._is_lost = 0
            raise OSError(errno.ENOBUFS, "ENOBUFS")
        data = bytearray(self._real.recv(size))
        for start, (_, kind, flags, sequence, _) in _headers(data):
            if kind == _ERROR and sequence == self._refused:
                struct.pack_into("=i", data, start + 16, -self._faults.fault.code)
            if sequence == self._interrupted:
                struct.pack_into("=H", data, start + 6, flags | _F_DUMP_INTR)
        return bytes(data)


def _headers(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    start = 0
    while start + 16 <= len(data):
        header = _HEADER.unpack_from(data, start)
        yield start, header
        start += (header[0] + 3) & ~3


def _calls(data: bytes) -> list[bytes]:
    if _HEADER.unpack_from(data)[1] == _BATCH_BEGIN:
        return [data]
    return [data[start : start + ((header[0] + 3) & ~3)] for start, header in _headers(data)]
