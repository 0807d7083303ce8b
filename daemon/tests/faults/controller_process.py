"""The controller as a real process, as its service manager runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from clustermesh_lab.process import cpu_s


class Controller:
    """``clustermeshd controller``; the log goes to a file. ``environment`` is added to ours."""

    def __init__(self, directory: Path, kubeconfig: Path, identity: str, *flags: str, **environment: str) -> None:
        self.identity = identity
        self._log = directory / f"{identity}.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        command = [sys.executable, "-m", "clustermeshd.cli.daemon", "controller", "--identity", identity]
        command += ["--kubeconfig", str(kubeconfig), "--health-port", str(self._port), "--namespace", "default"]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, *flags], stdout=log, stderr=log, env={**os.environ, **environment}
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def metric(self, name: str) -> float:
        """Value of the first sample whose line begins with ``name``; 0 where there is none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)), 0.0)

    def is_ready(self) -> bool:
        """Whether everything that was known at the start is written."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def cpu_s(self) -> float:
        """Seconds of processor time so far."""
        return cpu_s(self.process.pid)

    def resident_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) * 1024

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it; the exit status."""
        if self.is_running:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
