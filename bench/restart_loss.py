"""``restart-loss``: packets lost between two pods while the agent of one's node is killed and started again.

Half of the kills strike an agent at work, half one that is still starting. Each life finds a RemoteNode that was
written while there was no agent, so that kills strike writes too. Traffic goes both ways all the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from clustermesh_lab import ControlPlane

from bench import facts, site, traffic
from bench.report import BenchError, Ratio, Table

_STARTING_S = 1.5  # a start takes about so long
_WORKING_S = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=50, help="how often the agent is killed")


def run(options: argparse.Namespace) -> list[Ratio]:
    with _meshed() as made:
        ends = _Ends(made.nodes)
        try:
            started = time.monotonic()
            ready = _lives(made, options.kills)
            ends.stop()
            a, b = ends.figures()
        finally:
            ends.kill()
        took_s = time.monotonic() - started
    table = Table("kills", "while ready", "seconds", "way", "sent", "lost")
    lost = {"a to b": (a["sent"], a["sent"] - b["received"]), "b to a": (b["sent"], b["sent"] - a["received"])}
    for way, (sent, missing) in lost.items():
        table.row(options.kills, ready, took_s, way, sent, missing)
    print(f"TCP: {a['bytes']} bytes sent, {b['bytes']} received, {a['retransmitted']} segments sent again")
    if a["bytes"] != b["bytes"] or min(a["sent"], b["sent"]) < 500 * took_s:
        raise BenchError("the TCP stream broke, or the machine was too busy to send half of the packets")
    return [Ratio("restart-loss", sum(missing for _, missing in lost.values()), 0)]


def _lives(made: site.Site, kills: int) -> int:
    """Kill so many agents; how many of them were at work by then."""
    moments = random.Random(7)  # noqa: S311  # the same moments in every run
    ready = 0
    for number in range(kills):
        made.write_remote(facts.remotes(1, first=number)[0])
        agent = made.start("--log-level", "info")
        if number % 2:
            agent.until_notified("READY=1")
            time.sleep(moments.uniform(0, _WORKING_S))
        else:
            time.sleep(moments.uniform(0, _STARTING_S))
        ready += any("READY=1" in line for line in agent.notified)
        if agent.stop(signal.SIGKILL) != -signal.SIGKILL:
            raise BenchError(f"the agent ended by itself: {agent.log[-2000:]}")
        agent.close()
    return ready


@contextlib.contextmanager
def _meshed() -> Iterator[site.Site]:
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


class _Ends:
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
