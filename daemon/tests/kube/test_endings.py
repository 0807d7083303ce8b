"""Connections that the other side does not end: nothing of them stays open when a client is closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustermesh_lab.pki import Authority
from clustermeshd.kube.access import Access
from clustermeshd.kube.client import Client

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Access]:
    """A server that begins a stream and then reads nothing more, the end of TLS included."""
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.issue("server", "server", names=["127.0.0.1"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with tls.wrap_socket(listening.accept()[0], server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(STREAM)
                is_over.wait(60)

        server = threading.Thread(target=serve)
        server.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        yield Access(server=url, tls=ssl.create_default_context(cafile=str(tmp_path / "ca.crt")))
        is_over.set()
        server.join(60)


def test_a_stream_given_up_leaves_no_connection_when_the_server_is_deaf(deaf: Access):
    async def scene() -> None:
        begun = asyncio.Event()

        async def watch(client: Client) -> None:
            async with client.stream("/things", {}, idle_timeout_s=30) as lines:
                begun.set()
                async for _ in lines:
                    pass

        async with Client(deaf, user_agent="t") as client:
            watching = asyncio.create_task(watch(client))
            await begun.wait()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        asyncio.run(scene())
        gc.collect()
    assert [str(warning.message) for warning in said] == []
