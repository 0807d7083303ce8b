"""Real packets between real namespaces: what the data plane promises to pods."""

from __future__ import annotations

import sys
import time

import pytest
from conftest import Namespace, Topology

ECHO = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM); s.bind((sys.argv[1], 7000)); print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(peer[0].encode(), peer)
"""
ASK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(float(sys.argv[2])); s.connect((sys.argv[1], 7000))
s.send(b"who am i")
try: print(s.recv(2000).decode())
except OSError as error: print("none:", error)
"""


class Echo:
    """A server that answers with the source address it saw."""

    def __init__(self, space: Namespace, address: str) -> None:
        self._process = space.popen(sys.executable, "-c", ECHO, address)
        assert self._process.stdout.readline().strip() == "ready"

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


def ask(space: Namespace, address: str, timeout_s: float = 2) -> str:
    """Source address that the server at ``address`` saw."""
    return space.run(sys.executable, "-c", ASK, address, str(timeout_s)).strip()


@pytest.mark.parametrize(("server", "client"), [("10.92.1.5", "10.91.1.5"), ("fd92:1::5", "fd91:1::5")])
def test_remote_pod_sees_the_source_address_of_the_pod(mesh: Topology, server: str, client: str) -> None:
    with Echo(mesh.pod_b, server):
        assert ask(mesh.pod_a, server) == client
