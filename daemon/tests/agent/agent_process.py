"""A real agent process in a node's namespace, with a real API server behind a relay on that node's loopback."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kernel_topology import Namespace


class Relay:
    """Carries TCP connections from a namespace's loopback to ours; ``cut`` makes the API server disappear."""

    def __init__(self, space: Namespace, port: int) -> None:
        self.port = port
        self._space = space
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.join()

    def join(self) -> None:
        listener = self._space.call(socket.socket)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.port))
            self._open += [near, far]
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    @staticmethod
    def _carry(near: socket.socket, far: socket.socket) -> None:
        with near, far, selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in selector.select():
                    try:
                        data = key.fileobj.recv(65536)
                        key.data.sendall(data)
                    except OSError:
                        return
                    if not data:
                        return


class Agent:
    """``clustermeshd agent`` in a namespace. The log goes to a file; what it notifies is collected.

    ``source``: the tree of another release, in place of this one's.
    """

    def __init__(
        self, space: Namespace, directory: Path, kubeconfig: Path, *arguments: str, source: Path | None = None
    ) -> None:
        self._log = directory / f"agent-{time.monotonic_ns()}.log"
        notify = directory / "notify"
        notify.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(notify))
        self.notified: list[str] = []
        threading.Thread(target=self._collect, daemon=True).start()
        self._space = space
        command = ["ip", "netns", "exec", space.name, sys.executable, "-m", "clustermeshd.cli.daemon", "agent"]
        command += ["--kubeconfig", str(kubeconfig), "--node-name", "node1", "--log-level", "debug", *arguments]
        environment = {**os.environ, "NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "1000000"}
        if source is not None:
            environment["PYTHONPATH"] = str(source)
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until_notified(self, word: str, timeout_s: float = 60) -> None:
        until(
            lambda: any(word in line for line in self.notified),
            timeout_s,
            lambda: f"no {word} in {self.notified}; log:\n{self.log}",
        )

    def _collect(self) -> None:
        """As the service manager does: read at once, since a full socket would stop the sender."""
        with contextlib.suppress(OSError):
            while message := self._notify.recv(4096):
                self.notified.append(message.decode())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Exit status after a signal."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout_s: float = 60) -> int:
        self.output, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        with contextlib.suppress(OSError):  # closed before
            self._notify.shutdown(socket.SHUT_RDWR)
        self._notify.close()

    def http(self, path: str) -> tuple[int, str]:
        """An answer of the health endpoint, asked from inside the node."""
        with self._space.call(lambda: socket.create_connection(("127.0.0.1", 9472), timeout=2)) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
        head, _, body = answer.decode().partition("\r\n\r\n")
        return int(head.split()[1]), body

    def metric(self, name: str) -> float:
        _, text = self.http("/metrics")
        return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def resident_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) * 1024


def until(holds: Callable[[], bool], timeout_s: float, complaint: Callable[[], str] = lambda: "") -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < timeout_s, complaint()
        time.sleep(0.01)
    return time.monotonic() - started


def status_of(document: str) -> dict:
    return json.loads(document).get("status", {})
