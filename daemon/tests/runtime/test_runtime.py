"""Notify, logs and the health endpoint."""

import json
import logging
import socket

import pytest
from aiohttp import ClientSession
from clustermeshd.runtime import health, logs
from clustermeshd.runtime.notify import Notifier
from prometheus_client import CollectorRegistry, Gauge


@pytest.fixture
def manager(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.setblocking(False)
        yield sock, path


def received(sock):
    messages = []
    while True:
        try:
            messages.append(sock.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_the_service_manager_hears_each_status_once(manager):
    sock, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "9000000"})
    notifier.ready()
    notifier.status("two\nlines")
    notifier.status("two lines")
    notifier.alive()
    notifier.stopping()
    assert received(sock) == ["READY=1", "STATUS=two lines", "WATCHDOG=1", "STOPPING=1"]
    assert notifier.watchdog_interval_s == 3


def test_a_start_may_take_as_long_as_there_are_signs_of_life(manager):
    """The service manager looks at no watchdog before the service is ready, but at the time its start takes."""
    sock, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "9000000"})
    notifier.alive()
    notifier.ready()
    notifier.alive()
    assert received(sock) == ["EXTEND_TIMEOUT_USEC=60000000", "READY=1", "WATCHDOG=1"]


def test_without_a_service_manager_nothing_is_sent_and_nothing_fails():
    notifier = Notifier({})
    notifier.ready()
    notifier.alive()
    assert notifier.watchdog_interval_s is None


def test_a_manager_that_is_gone_is_no_error(tmp_path):
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready()
    assert not (tmp_path / "nobody").exists()


def test_a_manager_that_does_not_read_holds_nothing_up(manager):
    sock, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path})
    for number in range(2000):  # far beyond the queue of a datagram socket
        notifier.status(f"status {number}")
    assert 0 < len(received(sock)) < 2000


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_remote_name_cannot_forge_a_log_line(form, capsys):
    logs.configure(form)
    logging.getLogger("clustermeshd.test").warning("peer %s", "a\n2026 INFO forged\x1b[2J\u202e")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "\x1b" not in lines[0]
    if form == "json":
        assert json.loads(lines[0])["level"] == "warning"


async def test_health_ready_and_metrics_are_served(unused_tcp_port):
    registry = CollectorRegistry()
    Gauge("answer", "of everything", registry=registry).set(42)
    ready = []
    async with (
        health.serve(
            "127.0.0.1", unused_tcp_port, registry=registry, is_healthy=lambda: True, is_ready=lambda: bool(ready)
        ),
        ClientSession(f"http://127.0.0.1:{unused_tcp_port}") as session,
    ):
        answers = {}
        for path in ("/healthz", "/readyz", "/metrics"):
            async with session.get(path) as response:
                answers[path] = response.status, await response.text()
        assert answers["/healthz"][0] == 200
        assert answers["/readyz"][0] == 503
        assert "answer 42.0" in answers["/metrics"][1]
        ready.append(1)
        async with session.get("/readyz") as response:
            assert response.status == 200


async def test_a_port_in_use_is_told_and_the_daemon_goes_on(unused_tcp_port, caplog):
    arguments = {"registry": CollectorRegistry(), "is_healthy": lambda: True, "is_ready": lambda: True}
    async with (
        health.serve("127.0.0.1", unused_tcp_port, **arguments),
        health.serve("127.0.0.1", unused_tcp_port, **arguments),
    ):
        assert "--health-port" in caplog.text
