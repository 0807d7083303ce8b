"""F16, F21, F23 and F31: a real agent is killed, flooded, damaged behind its back, and loses its disk."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import inspect
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_process import Agent, until
from agent_site import Site
from clustermeshd.agent import dataplane
from clustermeshd.agent.dataplane import KernelThread, Reconciler
from clustermeshd.agent.engine import Deaf, Inputs, Outcome, Pending
from clustermeshd.agent.metrics import Metrics
from clustermeshd.kernel.netlink import NetlinkError
from clustermeshd.kernel.state import KINDS
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay import Change
from fault_mesh import Stream, phantom
from kernel_topology import MeshNode, Namespace, Topology
from kernel_traffic import Echo, Inbox, ask
from test_reconcile import DAMAGE, add_strangers
from test_stale_flows import Flow

pytestmark = pytest.mark.faults
_SOL_NETLINK, _DROP_MEMBERSHIP = 270, 2


@pytest.mark.slow
def test_F16_killed_at_random_moments_under_change_it_ends_as_if_never_killed(
    site: Site, agent: Agent, stream: Stream
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(2, 7):
        site.write_remote(phantom(number, at=number + 10 * (number % 2)))
        if number > 3:
            site.delete_remote(phantom(number - 1))
        time.sleep(chance.uniform(0, 0.1))
        agent.stop(signal.SIGKILL)
        agent.close()
        agent = site.start()
        time.sleep(chance.uniform(0.2, 1.5))
    agent.until_notified("READY=1")
    site.nodes.a.remotes = [site.nodes.b.as_remote(), *map(phantom, (1, 2, 6))]
    assert stream.lost() == 0
    wanted, actual = site.nodes.a.plan()
    assert wanted.marked == actual.marked


def netlink_drops(space: Namespace) -> int:
    """Messages that found the buffer of some listening socket full."""
    return sum(int(line.split()[8]) for line in space.run("cat", "/proc/net/netlink").splitlines()[1:])


def rounds_when_quiet(agent: Agent) -> float:
    """Rounds so far, once none came for a second: no event of ours is on its way then."""
    seen = [0.0]

    def is_quiet() -> bool:
        seen.append(agent.metric("clustermesh_agent_reconcile_seconds_count"))
        time.sleep(0.1)
        return len(seen) > 10 and len(set(seen[-10:])) == 1

    until(is_quiet, 10)
    return seen[-1]


@pytest.mark.slow
def test_F21_agent_that_missed_everything_in_a_flood_of_foreign_routes_makes_it_good(
    site: Site, agent: Agent, stream: Stream
) -> None:
    """Its monitor overruns while it is stopped, and our route goes when the buffer is full already."""
    space = site.nodes.a.space
    rounds = rounds_when_quiet(agent)
    agent.process.send_signal(signal.SIGSTOP)
    prefixes = [f"10.120.{n // 256}.{n % 256}/32" for n in range(50_000)]
    routes = [f"route add {prefix} via 10.90.1.1 proto 80" for prefix in prefixes]
    space.batch("\n".join(routes))
    dropped = netlink_drops(space)
    assert dropped > 0, "its monitor did not overrun"
    space.ip("route", "del", "10.92.1.0/24", "table", "4097")
    assert netlink_drops(space) > dropped, "the event of our route got through"
    agent.process.send_signal(signal.SIGCONT)
    until(lambda: site.routes() == 4, 10, lambda: agent.log)
    stream.until_resumed(5)
    space.batch("\n".join(route.replace(" add ", " del ", 1) for route in routes))
    assert agent.process.poll() is None
    assert agent.http("/healthz")[0] == 200
    assert agent.metric("clustermesh_agent_reconcile_seconds_count") - rounds < 20


@pytest.mark.slow
def test_F23_every_damage_is_repaired_within_a_second_of_its_event(site: Site, agent: Agent, stream: Stream) -> None:
    space, mac = site.nodes.a.space, site.nodes.b.as_remote().spec.vtep_mac
    add_strangers(space)
    slowest = ("", 0.0)
    for name, damage in DAMAGE.items():
        if damage == "ip nexthop flush":  # it takes the strangers' too; tried elsewhere
            continue
        whole = objects(space)
        space.run(*damage.replace("MAC", mac).split())
        taken = until(lambda whole=whole: objects(space) == whole, 1.5, lambda name=name: f"{name}: {agent.log}")
        slowest = max(slowest, (name, taken), key=lambda entry: entry[1])
        stream.until_resumed(1)
    print(f"slowest: {slowest[0]} {slowest[1] * 1000:.0f} ms")


def objects(space: Namespace) -> dict[str, list[str]]:
    """Everything of everybody, without the numbers and the order that change when something is made anew."""
    dump = space.dump()
    dump["nft"] = re.sub(r"\bseal_[0-9a-f]+", "seal", dump["nft"])
    links = [line.split(": ", 1)[-1] for line in dump.pop("links").splitlines()]
    addresses = [line.split(": ", 1)[-1] for line in dump.pop("addresses").splitlines()]
    return {"links": sorted(links), "addresses": sorted(addresses)} | {
        kind: sorted(text.splitlines()) for kind, text in dump.items()
    }


class Given:
    """Inputs without an API server."""

    def __init__(self, node: MeshNode) -> None:
        self.inputs = Inputs(node.local, tuple(node.remotes), 1)
        self._changes: list[Change] = []
        self._seen = 0

    def add(self, remote: RemoteNode) -> None:
        self.inputs = Inputs(self.inputs.local, (*self.inputs.remotes, remote), self.inputs.version + 1)
        self._changes.append(Change(None, remote))

    def snapshot(self) -> Inputs:
        return dataclasses.replace(self.inputs, pending=self.changes())

    def changes(self) -> Pending:
        changes, self._changes = self._changes, []
        since, self._seen = self._seen, self.inputs.version
        return Pending(since, self.inputs.version, changes)


@contextlib.asynccontextmanager
async def reconciling(node: MeshNode, **options: float) -> AsyncIterator[tuple[Reconciler, Given, asyncio.Queue]]:
    """A reconciler at work on a node, its inputs, and what comes of its rounds."""
    given, thread = Given(node), KernelThread(node.settings)
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
    reconciler = Reconciler(thread, given, metrics=Metrics(), on_outcome=outcomes.put_nowait, beat_s=0.1, **options)
    running = asyncio.create_task(reconciler.run())
    try:
        yield reconciler, given, outcomes
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        thread.close()


async def rounds_while_something_fails(node: MeshNode, remotes: list[RemoteNode]) -> list[Outcome]:
    """Outcomes of one event for each of those remote nodes, and of half a second of silence after each."""
    found = []
    async with reconciling(node) as (reconciler, given, outcomes):
        for remote in remotes:
            given.add(remote)
            reconciler.wake()
            await asyncio.sleep(0.5)
        while not outcomes.empty():
            found.append(outcomes.get_nowait())
    return found


def test_what_fails_is_told_by_every_round_and_tried_again_no_more_often_than_something_happens(
    nodes: Topology,
) -> None:
    nodes.a.remotes = [nodes.b.as_remote()]
    with nodes.a.space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as theirs:
        theirs.bind(("0.0.0.0", 4790))
        remotes = [phantom(number) for number in (1, 2, 3)]
        outcomes = nodes.a.space.call(lambda: asyncio.run(rounds_while_something_fails(nodes.a, remotes)))
    assert all(any(failure.kind == "devices" for failure in outcome.failures) for outcome in outcomes)
    assert 3 <= len(outcomes) <= 6  # the first one, one for each event, and at most two by the clock


def test_a_failure_that_lasts_for_days_is_tried_again_every_minute(nodes: Topology) -> None:
    thread = nodes.a.space.call(lambda: KernelThread(nodes.a.settings))
    try:
        reconciler = Reconciler(thread, Given(nodes.a), metrics=Metrics(), on_outcome=lambda _: None)
        for _ in range(2000):
            reconciler._whole_at = 0.0  # its time has come
            reconciler._schedule(failed=True)
        assert 47 <= reconciler._whole_at - time.monotonic() <= 60
        reconciler._schedule(failed=False)
        for _ in range(20):  # called for by events
            reconciler._schedule(failed=True)
        assert reconciler._whole_at - time.monotonic() <= 1
    finally:
        thread.close()


async def repaired_by_the_clock(node: MeshNode, resync_s: float) -> float:
    """Seconds until a reconciler that hears nothing has repaired a route."""
    thread = KernelThread(node.settings)
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
    reconciler = Reconciler(
        thread, Given(node), metrics=Metrics(), on_outcome=outcomes.put_nowait, resync_s=resync_s, beat_s=0.1
    )
    running = asyncio.create_task(reconciler.run())
    await outcomes.get()
    for listener in reconciler._monitor.sockets:
        for group in listener._groups:
            listener.socket.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, group)
    node.space.ip("route", "del", "10.92.1.0/24", "table", "4097")
    started = time.monotonic()
    while not (await asyncio.wait_for(outcomes.get(), 5)).written:
        pass
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    thread.close()
    return time.monotonic() - started


def test_F23_damage_of_which_no_event_told_is_repaired_by_the_next_resync(mesh: Topology) -> None:
    taken = mesh.a.space.call(lambda: asyncio.run(repaired_by_the_clock(mesh.a, 0.6)))
    assert 0.1 < taken < 1.5
    wanted, actual = mesh.a.plan()
    assert wanted.marked == actual.marked
    default = inspect.signature(Reconciler).parameters["resync_s"].default
    assert default <= 60


async def looks_at_connections(node: MeshNode, failures: int, within_s: float) -> int:
    """How often they are looked at until that many looks have failed and one has not, or the time is over."""
    looks = 0

    def forget(_: object) -> int:
        nonlocal looks
        looks += 1
        if looks <= failures:
            raise NetlinkError(errno.ENOBUFS, "ENOBUFS")
        return 0

    async with reconciling(node) as (reconciler, _, _):
        reconciler._thread._conntrack.forget = forget
        await asyncio.sleep(within_s)
    return looks


def test_F35_look_at_connections_that_failed_is_repeated_until_it_succeeds(
    nodes: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataplane, "_SWEEP_SPACING_S", 0.1)
    nodes.a.remotes = [nodes.b.as_remote()]
    looks = nodes.a.space.call(lambda: asyncio.run(looks_at_connections(nodes.a, failures=2, within_s=1.5)))
    assert looks == 4  # two that failed, and one for each family


async def routes_while_connections_are_looked_at(node: MeshNode, remote: RemoteNode) -> int:
    """Routes that are written for another remote node while the look at all connections takes as long as it likes."""
    given, thread = Given(node), KernelThread(node.settings)
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
    has_begun, may_end = threading.Event(), threading.Event()

    def forget(_: object) -> int:
        has_begun.set()
        may_end.wait(30)
        return 0

    thread._conntrack.forget = forget
    reconciler = Reconciler(thread, given, metrics=Metrics(), on_outcome=outcomes.put_nowait, beat_s=0.1)
    running = asyncio.create_task(reconciler.run())
    try:
        assert await asyncio.to_thread(has_begun.wait, 5)
        while not outcomes.empty():
            outcomes.get_nowait()
        given.add(remote)
        reconciler.wake()
        outcome = await asyncio.wait_for(outcomes.get(), 5)
        return sum(len(changes.routes.put) for changes in outcome.written)
    finally:
        may_end.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        thread.close()


def test_no_route_waits_while_connections_are_looked_at(nodes: Topology) -> None:
    """Connection tracking takes tens of milliseconds to read however little is in it."""
    node = nodes.a
    node.remotes = [nodes.b.as_remote()]
    assert node.space.call(lambda: asyncio.run(routes_while_connections_are_looked_at(node, phantom(2)))) == 2


class Leaving(Given):
    """Inputs whose Node object may be gone."""

    is_there = True

    def snapshot(self) -> Inputs | None:
        return super().snapshot() if self.is_there else None


async def rounds_while_the_node_is_gone(node: MeshNode, strange: RemoteNode, plain: RemoteNode) -> list[str]:
    """What the engine was asked for: first a change that takes a whole round, then one that does not."""
    given, thread = Leaving(node), KernelThread(node.settings)
    asked: list[str] = []
    quick, whole = thread.engine.quick, thread.engine.whole

    def recorded_quick(changed: list[Change]) -> Outcome | None:
        outcome = quick(changed)
        asked.append("quick" if outcome else "refused")
        return outcome

    def recorded_whole(inputs: Inputs, *, is_repair: bool, deaf: Deaf) -> Outcome:
        asked.append("whole")
        assert reconciler._monitor is not None
        assert deaf == reconciler._monitor.deaf
        return whole(inputs, is_repair=is_repair, deaf=deaf)

    thread.engine.quick, thread.engine.whole = recorded_quick, recorded_whole
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
    reconciler = Reconciler(thread, given, metrics=Metrics(), on_outcome=outcomes.put_nowait, beat_s=0.1)
    running = asyncio.create_task(reconciler.run())
    try:
        await asyncio.wait_for(outcomes.get(), 5)
        await asyncio.sleep(0.5)  # the kernel tells of new devices, which is seen to
        asked.clear()
        while not outcomes.empty():
            outcomes.get_nowait()
        given.is_there = False
        for remote in (strange, plain):
            given.add(remote)
            reconciler.wake()
            await asyncio.sleep(0.5)
        given.is_there = True
        reconciler.wake()
        await asyncio.wait_for(outcomes.get(), 5)
        return asked
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        thread.close()


def test_whole_round_that_is_due_stays_due_while_the_node_object_is_gone(nodes: Topology) -> None:
    """A plan into which a change was carried only half is changed no further."""
    node = nodes.a
    node.remotes = [nodes.b.as_remote()]
    contested = phantom(1, cidrs=nodes.b.pod_cidrs)
    asked = node.space.call(lambda: asyncio.run(rounds_while_the_node_is_gone(node, contested, phantom(2))))
    assert asked == ["refused", "whole"]


@pytest.mark.slow
def test_F31_disk_that_becomes_read_only_under_a_running_agent_changes_nothing(site: Site, agent: Agent) -> None:
    """It keeps no state in files; what it reads from one, it has read."""
    read_only = """for at in / /tmp /run /dev/shm /var/tmp; do
        if mountpoint -q $at; then mount -o remount,bind,ro $at; fi
        done; touch /tmp/written /written 2> /dev/null || echo read-only"""
    own = Path(f"/proc/{agent.process.pid}/ns/mnt").readlink()
    assert own != Path("/proc/self/ns/mnt").readlink(), "it shares its mounts with us"
    command = ["nsenter", "--target", str(agent.process.pid), "--mount", "sh", "-c", read_only]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "read-only\n"
    site.write_remote(phantom(2))
    until(lambda: site.routes() == 6, 5, lambda: agent.log)
    site.relay.cut()
    site.nodes.a.space.ip("link", "del", "clustermesh0")
    until(lambda: site.routes() == 6, 2, lambda: agent.log)
    site.relay.join()
    site.delete_remote(phantom(2))
    until(lambda: site.routes() == 4, 30, lambda: agent.log)
    assert "Traceback" not in agent.log
    assert agent.stop() == 0


@pytest.mark.slow
def test_F31_agent_works_where_nothing_can_be_written(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only = "for at in / /tmp /run /dev/shm /var/tmp; do mountpoint -q $at && mount -o remount,bind,ro $at; done"
    wrapper = tmp_path / "python-without-disk"
    wrapper.write_text(
        f"""#!/bin/sh
        exec unshare --mount sh -c '{read_only}; touch {tmp_path}/x /tmp/x 2>/dev/null && exit 9; exec "$@"' \
            sh {sys.executable} "$@"
        """
    )
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")
    monkeypatch.undo()
    with Echo(site.nodes.pod_b, "10.92.1.5"):
        assert ask(site.nodes.pod_a, "10.92.1.5") == "10.91.1.5"
    site.nodes.a.space.ip("link", "del", "clustermesh0")
    until(lambda: site.routes() == 2, 2, lambda: agent.log)
    assert agent.stop() == 0
    assert "Traceback" not in agent.log


def totals(agent: Agent) -> dict[tuple[str, str], float]:
    """Objects written and removed so far, by kind."""
    return {
        (verb, kind): agent.metric(f'clustermesh_agent_{verb}_total{{kind="{kind}"}}')
        for verb in ("written", "removed")
        for kind in KINDS
    }


@pytest.mark.slow
@pytest.mark.parametrize("is_started_without", [False, True], ids=["lost", "started without"])
def test_catching_up_after_the_api_servers_return_writes_what_changed_meanwhile_and_nothing_else(
    site: Site, agent: Agent, is_started_without: bool
) -> None:
    remotes = [phantom(number) for number in range(2, 31)]
    for remote in remotes:
        site.write_remote(remote)
    until(lambda: site.routes() == 2 * (len(remotes) + 2), 30, lambda: agent.log)
    before = site.nodes.a.observe().marked
    if is_started_without:
        agent.stop()
        agent.close()
    site.relay.cut()
    site.delete_remote(remotes[0])
    site.write_remote(phantom(3, at=53))
    site.write_remote(phantom(4, cidrs=("10.99.4.0/24", "fd99:4::/64", "10.98.4.0/24")))
    site.write_remote(phantom(40))
    if is_started_without:
        agent = site.start()
        until(lambda: "nodes: GET" in agent.log or "nodes: WATCH" in agent.log, 30, lambda: agent.log)
    found = totals(agent)
    site.relay.join()
    site.nodes.a.remotes = [site.nodes.b.as_remote(), phantom(1), *remotes[3:]]
    site.nodes.a.remotes += [phantom(3, at=53), phantom(40)]
    site.nodes.a.remotes += [phantom(4, cidrs=("10.99.4.0/24", "fd99:4::/64", "10.98.4.0/24"))]
    wanted = site.nodes.a.plan()[0].marked
    until(lambda: site.nodes.a.observe().marked == wanted, 30, lambda: agent.log)
    changes = diff(wanted, before)
    changed = {("written", kind): len(delta.put) for kind, delta in changes.deltas()}
    changed |= {("removed", kind): len(delta.delete) for kind, delta in changes.deltas()}
    assert sum(changed.values()) == 19
    until(lambda: totals(agent) != found, 5)
    assert {key: value - found[key] for key, value in totals(agent).items()} == changed


@pytest.mark.slow
@pytest.mark.parametrize("address", ["10.92.1.5", "fd92:1::5"])
def test_F35_flow_of_the_node_that_began_before_the_mesh_works_within_five_seconds(site: Site, address: str) -> None:
    agent = site.start()
    agent.until_notified("READY=1")
    expected = "10.91.1.0" if "." in address else "fd91:1::"
    with Flow(site.nodes.a.space, address) as flow, Inbox(site.nodes.pod_b, address) as inbox:
        flow.send()
        site.write_remote(site.nodes.b.as_remote())

        def arrives() -> bool:
            flow.send()
            return inbox.take(0.05) == (b"same flow", expected)

        until(arrives, 5, lambda: agent.log)
