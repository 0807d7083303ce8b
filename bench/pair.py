"""Two meshed nodes, one of them with an agent, and traffic between their pods."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clustermesh_lab import ControlPlane

from bench import site, traffic
from bench.report import BenchError


@contextlib.contextmanager
def meshed() -> Iterator[site.Site]:
    """Two nodes that a first agent has meshed."""
    with contextlib.ExitStack() as stack:
        make = stack.enter_context(site.namespaces())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(ControlPlane(name="bench", services=("10.96.0.0/16",)))
        site.kubectl(api, "apply", "--server-side", "-f", str(site.CRDS))
        site.kubectl(api, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        made = site.Site(site.Topology(make), api, directory, site.kubectl)
        stack.callback(made.close)
        made.write_remote(made.nodes.b.as_remote())
        agent = made.start("--log-level", "info")
        agent.until_notified("READY=1")
        site.until(lambda: made.routes() == 2, 10, lambda: agent.log)
        agent.stop(signal.SIGKILL)
        yield made


class Ends:
    """The two ends of the traffic, in pod a and pod b; started here."""

    def __init__(self, nodes: site.Topology) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        v4, v6 = ("10.91.1.5", "10.92.1.5"), ("fd91:1::5", "fd92:1::5")
        try:
            listener = self._start(nodes.pod_b, *reversed(v4), *reversed(v6), "listen")
            _expect(listener, "listening")
            connector = self._start(nodes.pod_a, *v4, *v6, "connect")
            for process in (connector, listener):
                _expect(process, "ready")
            self._tell("go")
        except BaseException:
            self.kill()
            raise

    def _start(self, pod: site.Namespace, *arguments: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", pod.name, sys.executable, str(traffic.__file__), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._processes.insert(0, process)  # the one of pod a comes first
        return process

    def stop(self) -> None:
        self._tell("stop")
        for process in self._processes:
            _expect(process, "stopped")

    def figures(self) -> list[dict[str, int]]:
        """Of pod a and of pod b."""
        self._tell("report")
        return [json.loads(_line(process)) for process in self._processes]

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _tell(self, word: str) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write(f"{word}\n")
                process.stdin.flush()


def _expect(process: subprocess.Popen[str], word: str) -> None:
    if (found := _line(process)) != word:
        raise BenchError(f"an end of the traffic said {found!r} instead of {word!r}")


def _line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip() if process.stdout is not None else ""
