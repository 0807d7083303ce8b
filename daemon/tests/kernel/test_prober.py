"""The prober between two real nodes: what it says of a path that works, half works, or takes small packets only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from clustermeshd.agent.metrics import Metrics
from clustermeshd.agent.prober import Prober
from clustermeshd.model.settings import Probing
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay import Overlay
from clustermeshd.plan.paths import TURNS, Target
from kernel_topology import MeshNode, Namespace, Topology
from kernel_traffic import Sink, send_tcp

QUICK = Probing(interval_s=0.15, timeout_s=0.05, sample=4)
SLOW = Probing(interval_s=15, timeout_s=0.05, sample=4)
TUNNEL = {"a": {4: "10.91.1.0", 6: "fd91:1::"}, "b": {4: "10.92.1.0", 6: "fd92:1::"}}


class Running:
    """A prober of one node in a thread of its own."""

    def __init__(self, node: MeshNode, targets: list[Target], settings: Probing = QUICK) -> None:
        self.targets, self.metrics = targets, Metrics()
        self.looks = 0
        self.prober = Prober(
            settings, self._look, lambda: tuple(self.targets), metrics=self.metrics, on_change=lambda: None
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: node.space.call(lambda: asyncio.run(self._run())))
        self._thread.start()

    async def _run(self) -> None:
        task = asyncio.create_task(self.prober.run())
        while not self._stop.is_set():
            await asyncio.sleep(0.01)
            if task.done():
                task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def _look(self) -> list[Target]:
        self.looks += 1
        return self.targets

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def states(self) -> dict[int, tuple[str, str]]:
        return {path.target.family: (path.state, path.reason) for path in list(self.prober._paths.values())}

    def until(self, wanted: dict[int, tuple[str, str]], within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while self.states() != wanted:
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.02)


def targets(of: str, mtus: dict[int, int], mode: str = "Enabled") -> list[Target]:
    other = "b" if of == "a" else "a"
    return [Target("other", "node1", f, TUNNEL[other][f], TUNNEL[of][f], mode, mtu) for f, mtu in mtus.items()]


@pytest.fixture
def probers(mesh: Topology) -> Iterator[tuple[Topology, Running, Running]]:
    mtus = {4: 1450, 6: 1430}
    a, b = Running(mesh.a, targets("a", mtus)), Running(mesh.b, targets("b", mtus))
    yield mesh, a, b
    a.close()
    b.close()


BOTH = {4: ("reachable", "Answered"), 6: ("reachable", "Answered")}


def test_a_path_that_works_is_reachable_in_both_families(probers: tuple[Topology, Running, Running]) -> None:
    _, a, b = probers
    a.until(BOTH)
    b.until(BOTH)
    assert all(0 < (path.rtt_s or 0) < 1 for path in a.prober._paths.values())
    assert a.prober.mtus() == {}


def test_a_path_broken_in_one_direction_is_told_from_both_ends_and_recovers(
    probers: tuple[Topology, Running, Running],
) -> None:
    mesh, a, b = probers
    a.until(BOTH)
    drop = "table ip cut { chain f { type filter hook forward priority 0; ip saddr 10.90.1.2 drop; }\n }"
    mesh.router.run("nft", drop)
    a.until({4: ("unreachable", "OutboundLost"), 6: ("reachable", "Answered")})  # it hears the other's probes
    b.until({4: ("unreachable", "NoAnswer"), 6: ("reachable", "Answered")})  # it cannot know which way is broken
    mesh.router.run("nft", "delete", "table", "ip", "cut")
    a.until(BOTH)
    b.until(BOTH)


def test_remote_nodes_are_looked_through_when_they_change_and_when_another_has_its_turn(
    probers: tuple[Topology, Running, Running],
) -> None:
    _, a, _ = probers
    a.until(BOTH)
    sent = a.metrics.probes.labels("sent")._value
    looks, before = a.looks, sent.get()
    while (rounds := (sent.get() - before) / 4) < 2 * TURNS:  # a small and a large one to two addresses
        time.sleep(0.02)
    assert 1 <= a.looks - looks <= rounds / TURNS + 1
    a.targets = targets("a", {4: 1450})
    a.until({4: ("reachable", "Answered")})


def test_without_the_other_end_nothing_is_claimed_to_work(mesh: Topology) -> None:
    alone = Running(mesh.a, targets("a", {4: 1450}))
    alone.until({4: ("unreachable", "NoAnswer")})
    alone.close()


def test_nodes_that_appear_are_known_to_be_reachable_long_before_the_next_round(mesh: Topology) -> None:
    a, b = Running(mesh.a, [], SLOW), Running(mesh.b, targets("b", {4: 1450, 6: 1430}))
    try:
        time.sleep(0.1)  # its first round has found nobody
        a.targets = targets("a", {4: 1450, 6: 1430})
        a.until(BOTH, within_s=SLOW.interval_s / 2)
    finally:
        a.close()
        b.close()


def test_an_end_that_starts_later_is_reachable_soon_after_and_was_never_called_lost(mesh: Topology) -> None:
    a = Running(mesh.a, targets("a", {4: 1450}), SLOW)
    try:
        deadline = time.monotonic() + SLOW.interval_s
        while a.metrics.probes.labels("sent")._value.get() < 2 * 5:  # five times a small and a large one
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert a.states() == {4: ("unknown", "NotProbedYet")}
        b = Running(mesh.b, targets("b", {4: 1450}))
        a.until({4: ("reachable", "Answered")}, within_s=SLOW.interval_s / 2)
        b.close()
    finally:
        a.close()


@pytest.mark.parametrize(("timeout_s", "answered"), [(0.05, False), (1.0, True)])
def test_an_answer_counts_within_the_timeout_and_not_while_others_are_still_asked(
    mesh: Topology, timeout_s: float, answered: bool
) -> None:
    """The other end takes 0.1 s, and a round spreads its probes over more than that."""
    with mesh.b.space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as slow:
        slow.bind((TUNNEL["b"][4], QUICK.port))
        slow.settimeout(5)
        a = Running(mesh.a, targets("a", {4: 1450}), Probing(interval_s=4, timeout_s=timeout_s, sample=4))
        try:
            for _ in range(2):  # a small and a large one
                request, asker = slow.recvfrom(2000)
                time.sleep(0.1)
                slow.sendto(request[:5] + b"\x02" + request[6:24], asker)
            time.sleep(0.5)
        finally:
            a.close()
    assert bool(a.metrics.probes.labels("answered")._value.get()) is answered
    assert bool(a.metrics.probes.labels("lost")._value.get()) is not answered


def test_a_tunnel_address_that_moves_is_followed(probers: tuple[Topology, Running, Running]) -> None:
    mesh, a, b = probers
    a.until(BOTH)
    mesh.a.space.ip("addr", "add", "10.91.1.9/32", "dev", "lo")
    a.targets = [target._replace(local="10.91.1.9") if target.family == 4 else target for target in a.targets]
    b.targets = [target._replace(address="10.91.1.9") if target.family == 4 else target for target in b.targets]
    a.until(BOTH)
    b.until(BOTH)
    a.targets = []
    a.until({})


@pytest.fixture
def small(spaces: Callable[[str], Namespace]) -> Iterator[Topology]:
    """An IPv6 underlay whose router takes 1400 bytes and tells nobody."""
    made = Topology(spaces, "v6")
    made.a.reconcile()
    made.b.reconcile()
    for n in (1, 2):
        made.router.ip("link", "set", f"to{n}", "mtu", "1400")
    yield made
    made.close()


@pytest.mark.faults
def test_F34_a_black_hole_is_measured_and_routes_of_that_size_carry_a_megabyte(small: Topology) -> None:  # noqa: N802
    mtus = {4: 1430, 6: 1430}
    a, b = Running(small.a, targets("a", mtus)), Running(small.b, targets("b", mtus))
    hole = ("black-holed", "FullSizeLost")
    try:
        a.until({4: hole, 6: hole})
        deadline = time.monotonic() + 20
        while any(found < 1325 for found in a.prober.mtus().values()) or len(a.prober.mtus()) < 2:
            assert time.monotonic() < deadline, a.prober.mtus()
            time.sleep(0.02)
        assert all(found <= 1330 for found in a.prober.mtus().values())  # 1400 - 70
    finally:
        a.close()
        b.close()
    found = {("cluster-2", "node1", family): mtu for (_, _, family), mtu in a.prober.mtus().items()}
    actual = small.a.observe()
    wanted = Overlay(small.a.settings).plan(small.a.local, small.a.remotes, actual, found)
    assert {route.mtu for route in wanted.marked.routes.values()} == set(found.values())
    assert not small.a.kernel.apply(diff(wanted.marked, actual.marked)).failures
    for pod, other, address, source in (
        (small.pod_a, small.pod_b, "fd92:1::5", "fd91:1::5"),
        (small.pod_b, small.pod_a, "10.91.1.5", "10.92.1.5"),
    ):
        with Sink(other, address):
            answer, _ = send_tcp(pod, address, 1_000_000)
        assert answer == f"1000000 {source}"


def replies(space: Namespace, source: str, *data: bytes) -> list[bytes]:
    """What node b's tunnel address answers to datagrams of ``source``."""
    with space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asker:
        asker.bind((source, 0))
        asker.settimeout(0.3)
        for one in data:
            asker.sendto(one, (TUNNEL["b"][4], QUICK.port))
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(asker.recv(2000))
    return found


def test_hostile_datagrams_get_nothing_and_break_nothing(probers: tuple[Topology, Running, Running]) -> None:
    mesh, a, b = probers
    a.until(BOTH)
    request = b"CMPP\x01\x01" + bytes(18)
    nonsense = (b"", b"\xff" * 1400, request[:23], b"CMPX" + request[4:], b"CMPP\x02" + request[5:])
    answers = b"CMPP\x01\x02" + bytes(18)
    assert replies(mesh.a.space, TUNNEL["a"][4], *nonsense, answers) == []
    assert replies(mesh.pod_a, "10.91.1.5", request) == []  # a pod is no known tunnel address
    assert list(map(len, replies(mesh.a.space, TUNNEL["a"][4], request + bytes(1000)))) == [24]  # nothing is amplified
    a.until(BOTH)
    b.until(BOTH)


def test_a_source_that_floods_is_answered_at_its_own_rate_and_others_are_not_the_poorer(
    probers: tuple[Topology, Running, Running],
) -> None:
    mesh, a, b = probers
    a.until(BOTH)
    mesh.a.space.ip("addr", "add", "10.91.1.9/32", "dev", "lo")
    b.targets = [*b.targets, b.targets[0]._replace(node="node2", address="10.91.1.9")]
    time.sleep(2 * QUICK.interval_s)  # so that b knows it
    flood = [b"CMPP\x01\x01" + bytes(18)] * 400
    assert 0 < len(replies(mesh.a.space, "10.91.1.9", *flood)) < 100
    assert all(state == "reachable" for state, _ in a.states().values())
