"""What fault tests share: remote nodes that are only objects, an engine to run rounds with, and numbered traffic."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from clustermeshd.agent.engine import Engine, Inputs, Outcome, Pending
from clustermeshd.kernel.dataplane import Kernel
from clustermeshd.kernel.netlink import NetlinkError
from clustermeshd.kernel.state import Marked
from clustermeshd.kube.objects import Metadata, RemoteNode, RemoteNodeSpec
from clustermeshd.model.addresses import vtep_mac
from clustermeshd.model.errors import MeshError
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay import Change
from kernel_topology import MeshNode, Namespace


def phantom(number: int, *, at: int = 0, cluster: str = "cluster-9", cidrs: Sequence[str] = ()) -> RemoteNode:
    """A remote node that is only an object. ``at`` is where it stands on the underlay, ``cidrs`` what it holds."""
    cidrs = tuple(cidrs) or (f"10.99.{number}.0/24", f"fd99:{number}::/64")
    at = at or number
    spec = RemoteNodeSpec(
        cluster_id=cluster,
        cluster_name=cluster,
        node_name=f"phantom{number}",
        overlay_routing_mode="Enabled",
        addresses=(f"10.90.9.{at}", f"fd90:9::{at}"),
        pod_cidrs=cidrs,
        tunnel_addresses=tuple(cidr.partition("/")[0] for cidr in cidrs[:2]),
        vtep_mac=vtep_mac(cluster, f"phantom{number}"),
    )
    return RemoteNode(metadata=Metadata(name=f"{cluster}.phantom{number}"), spec=spec)


def changed(before: Sequence[RemoteNode], after: Sequence[RemoteNode]) -> list[Change]:
    """What is different, as informers tell it."""
    old, new = ({node.metadata.name: node for node in nodes} for nodes in (before, after))
    names = dict.fromkeys((*old, *new))
    return [Change(old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


class Driver:
    """Runs the rounds of an agent on a node, in its namespace, with whatever remote nodes are given."""

    def __init__(self, node: MeshNode) -> None:
        self.node = node
        self.engine: Engine = node.space.call(lambda: Engine(node.settings))
        self._inputs = Inputs(node.local, (), 0)

    def close(self) -> None:
        self.engine.close()

    def begin_anew(self) -> None:
        """As a new process: nothing is remembered."""
        self.engine.close()
        self.engine = self.node.space.call(lambda: Engine(self.node.settings))

    @property
    def kernel(self) -> Kernel:
        return self.engine.kernel

    def inputs(self, remotes: Sequence[RemoteNode]) -> Inputs:
        """As they come from the API server: another version whenever anything is different."""
        given = Inputs(self.node.local, tuple(remotes), self._inputs.version)
        if given != self._inputs:
            self._inputs = Inputs(given.local, given.remotes, given.version + 1)
        return self._inputs

    def round(self, remotes: Sequence[RemoteNode]) -> Outcome | Exception:
        """One round as the agent makes it: what it would log and retry is returned."""
        try:
            return self.node.space.call(lambda: self.engine.whole(self.inputs(remotes)))
        except (MeshError, NetlinkError, OSError) as error:
            return error

    def quick(self, changed: Sequence[Change]) -> Outcome | None:
        """One quick round; None where the agent would make a whole one."""
        gone = [change.old for change in changed]
        new = (change.new for change in changed if change.new is not None)
        remotes = (*(remote for remote in self._inputs.remotes if remote not in gone), *new)
        since = self._inputs.version
        self._inputs = Inputs(self._inputs.local, remotes, since + 1)
        return self.node.space.call(lambda: self.engine.quick(Pending(since, since + 1, changed)))

    def try_quick(self, before: Sequence[RemoteNode], after: Sequence[RemoteNode]) -> Outcome | Exception | None:
        """As ``round``, by a quick one."""
        try:
            return self.quick(changed(before, after))
        except (MeshError, NetlinkError, OSError) as error:
            return error

    def follow(self, before: Sequence[RemoteNode], after: Sequence[RemoteNode]) -> None:
        """Go from one set of remote nodes to the next as the agent does: the quick way where there is one."""
        outcome = self.quick(changed(before, after))
        if outcome is None:
            self.settle(after)
        else:
            assert not outcome.failures, outcome.failures

    def settle(self, remotes: Sequence[RemoteNode], rounds: int = 2) -> None:
        """At most so many rounds until nothing fails and nothing differs."""
        for _ in range(rounds):
            outcome = self.round(remotes)
            if isinstance(outcome, Outcome) and not outcome.failures and not outcome.written:
                return
        outcome = self.round(remotes)
        assert isinstance(outcome, Outcome), outcome
        assert not outcome.failures, outcome.failures
        assert not outcome.written, outcome.written

    def uninstall(self) -> None:
        report = self.node.space.call(
            lambda: self.kernel.apply(diff(Marked(), self.kernel.observe().marked)),
        )
        assert not report.failures, report.failures


Drive: TypeAlias = Callable[[MeshNode], Driver]  # the fixture that makes drivers and closes them


class Stream:
    """Numbered UDP packets from one address to another and back, a thousand a second, until the block ends."""

    def __init__(
        self, near: Namespace, far: Namespace, address: str, *, rate_hz: int = 1000, is_expected: bool = True
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._near = near.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._far = far.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._far.bind((address, 7001))
        self._near.connect((address, 7001))
        self._near.settimeout(0.5)
        self._pause_s, self._is_expected = 1 / rate_hz, is_expected
        self.sent = 0
        self.answered: dict[int, float] = {}  # number -> seconds after the start of the stream
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._answer, self._collect)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        if self._is_expected:
            self._until(lambda: bool(self.answered))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()

    def lost(self) -> int:
        """Packets sent so far of which no answer comes within half a second."""
        numbers = range(self.sent)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline and any(number not in self.answered for number in numbers):
            time.sleep(0.01)
        return sum(number not in self.answered for number in numbers)

    def until_resumed(self, timeout_s: float) -> float:
        """Seconds until an answer to a packet that is sent from now on."""
        started, next_number = time.monotonic(), self.sent
        self._until(lambda: any(number >= next_number for number in tuple(self.answered)[-5:]), timeout_s)
        return time.monotonic() - started

    @staticmethod
    def _until(holds: Callable[[], bool], timeout_s: float = 5) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, f"no packet came back within {timeout_s} s"
            time.sleep(0.005)

    def _send(self) -> None:
        for number in itertools.count():
            if self._stop.wait(self._pause_s):
                return
            with contextlib.suppress(OSError):  # no way at the moment: that is a packet lost
                self._near.send(number.to_bytes(4, "big"))
            self.sent = number + 1

    def _answer(self) -> None:
        while not self._stop.is_set():
            if select.select([self._far], [], [], 0.1)[0]:
                data, peer = self._far.recvfrom(100)
                try:
                    self._far.sendto(data, peer)
                except OSError:
                    continue

    def _collect(self) -> None:
        while not self._stop.is_set():
            try:
                number = int.from_bytes(self._near.recv(100), "big")
            except OSError:
                continue
            self.answered[number] = time.monotonic() - self._started
