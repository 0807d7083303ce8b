"""The engine of the agent: a kernel found as wanted is read by its bytes alone, and a change of any kind is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
import pytest
from clustermeshd.agent.engine import Engine, Inputs, Pending
from clustermeshd.kernel import messages
from clustermeshd.kernel.state import Route
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.plan.overlay import Change
from kernel_topology import Topology
from kernel_traffic import Echo, ask

DAMAGE = [
    ("ip", "route", "del", "10.92.1.0/24", "table", "4097"),
    ("ip", "route", "add", "10.93.0.0/24", "dev", "clustermesh0", "table", "4097", "proto", "77"),
    ("ip", "-6", "route", "del", "fd92:1::/64", "table", "4097"),
    ("ip", "neigh", "del", "10.92.1.0", "dev", "clustermesh0"),
    ("ip", "neigh", "replace", "10.92.1.0", "lladdr", "0e:00:00:00:00:09", "nud", "permanent", "dev", "clustermesh0"),
    ("ip", "nexthop", "flush"),
    ("bridge", "fdb", "append", "0e:00:00:00:00:09", "dst", "10.90.1.1", "dev", "clustermesh0"),
    ("ip", "link", "del", "clustermesh0"),
    ("ip", "link", "set", "clustermesh0v6", "down"),
    ("ip", "rule", "del", "pref", "98"),
    ("ip", "addr", "del", "10.91.1.0/32", "dev", "lo"),
    ("nft", "flush", "set", "inet", "clustermesh", "remote_pods4_24"),
    ("nft", "add", "element", "inet", "clustermesh", "nodes4", "{ 1.2.3.4 }"),
    ("nft", "add", "element", "inet", "clustermesh", "peers44_24", "{ 1.2.3.4 . 5 }"),
    ("nft", "flush", "chain", "inet", "clustermesh", "inner"),
    ("nft", "add", "set", "inet", "clustermesh", "peers44_9", "{ typeof ip saddr . @th,336,32; }"),
    ("nft", "delete", "table", "inet", "clustermesh"),
]


@pytest.fixture
def engine(nodes: Topology) -> Iterator[Engine]:
    made = nodes.a.space.call(lambda: Engine(nodes.a.settings))
    nodes.b.reconcile()
    yield made
    made.close()


def inputs(nodes: Topology, version: int = 1, *more: RemoteNode) -> Inputs:
    return Inputs(nodes.a.local, (*nodes.a.remotes, *more), version)


def test_what_happens_while_nobody_listens_is_repaired_by_the_same_round(nodes: Topology, engine: Engine) -> None:
    times = []

    @contextmanager
    def deaf() -> Iterator[None]:
        yield
        times.append(nodes.a.space.run("ip", "route", "del", "10.92.1.0/24", "table", "4097"))

    outcome = nodes.a.space.call(lambda: engine.whole(inputs(nodes), deaf=deaf))
    assert [len(changes.routes.put) for changes in outcome.written] == [2, 1]
    assert len(times) == 1  # what is repaired may be followed by no look: it is listened to
    assert "10.92.1.0/24" in nodes.a.space.run("ip", "route", "show", "table", "4097")


def test_any_damage_to_a_kernel_that_was_as_wanted_is_seen_and_repaired(nodes: Topology, engine: Engine) -> None:
    def whole() -> tuple:
        return nodes.a.space.call(lambda: engine.whole(inputs(nodes))).written

    assert whole()
    before = nodes.a.space.dump()
    for damage in DAMAGE:
        assert not whole(), damage
        assert not whole(), damage  # now from memory
        nodes.a.space.run(*damage)
        assert whole(), damage
        after = nodes.a.space.dump()
        assert {kind: text for kind, text in after.items() if kind in ("rules4", "rules6", "neighbours")} == {
            kind: text for kind, text in before.items() if kind in ("rules4", "rules6", "neighbours")
        }
    with Echo(nodes.pod_b, "10.92.1.5"):
        assert ask(nodes.pod_a, "10.92.1.5") == "10.91.1.5"


@pytest.mark.parametrize(
    ("cidrs", "address", "source"),
    [
        (("10.92.0.0/20",), "10.92.1.5", "10.91.1.5"),
        (("10.92.1.0/32", "10.92.1.4/30"), "10.92.1.5", "10.91.1.5"),
        (("10.92.1.0/32", "10.92.1.5/32"), "10.92.1.5", "10.91.1.5"),
        (("fd92::/24",), "fd92:1::5", "fd91:1::5"),
        (("fd92:1::/128", "fd92:1::4/126"), "fd92:1::5", "fd91:1::5"),
        (("fd92:1::/128", "fd92:1::5/128"), "fd92:1::5", "fd91:1::5"),
    ],
)
def test_a_source_stays_towards_remote_pods_of_prefixes_of_any_length(
    nodes: Topology, engine: Engine, cidrs: tuple[str, ...], address: str, source: str
) -> None:
    (remote,) = nodes.a.remotes
    spec = msgspec.structs.replace(remote.spec, pod_cidrs=cidrs)
    given = dataclasses.replace(inputs(nodes), remotes=(msgspec.structs.replace(remote, spec=spec),))
    assert not nodes.a.space.call(lambda: engine.whole(given)).failures
    with Echo(nodes.pod_b, address):
        assert ask(nodes.pod_a, address) == source


def test_a_pod_that_comes_makes_no_new_plan_and_a_moved_underlay_does(nodes: Topology, engine: Engine) -> None:
    def plan() -> object:
        return nodes.a.space.call(lambda: engine.compare(inputs(nodes)))[0]

    nodes.a.space.call(lambda: engine.whole(inputs(nodes)))
    planned = plan()
    nodes.a.space.batch("""
        link add veth9 type veth peer name veth8
        link set veth9 up
        addr add 10.91.1.1/32 dev veth9
        -6 addr add fd91:1::1/128 dev veth9""")
    assert plan() is planned
    for change in ("link set eth0 mtu 1400", "addr add 10.90.1.2/32 dev veth9", "link set veth9 mtu 1300"):
        nodes.a.space.ip(*change.split())
        before, planned = planned, plan()
        assert planned is not before, change
        assert plan() is planned


def like(remote: RemoteNode, number: int) -> RemoteNode:
    """Another node of the same cluster."""
    spec = msgspec.structs.replace(
        remote.spec,
        node_name=f"node{number}",
        addresses=(f"10.90.9.{number}", f"fd90:9::{number}"),
        pod_cidrs=(f"10.92.{number}.0/24", f"fd92:{number}::/64"),
        tunnel_addresses=(),
        vtep_mac=f"0e:00:00:00:01:{number:02x}",
    )
    metadata = msgspec.structs.replace(remote.metadata, name=f"cluster-2.node{number}")
    return msgspec.structs.replace(remote, metadata=metadata, spec=spec)


def test_a_quick_change_is_in_force_at_once_and_a_whole_round_finds_nothing_more(
    nodes: Topology, engine: Engine
) -> None:
    (remote,) = nodes.a.remotes
    second, moved = like(remote, 7), msgspec.structs.replace(like(remote, 7), spec=like(remote, 8).spec)

    def call(function: object, *arguments: object) -> object:
        return nodes.a.space.call(lambda: function(*arguments))

    call(engine.whole, inputs(nodes))
    held: tuple[RemoteNode, ...] = ()
    for version, (old, new) in enumerate(((None, second), (second, moved), (moved, None)), 2):
        outcome = call(engine.quick, Pending(version - 1, version, [Change(old, new)]))
        assert outcome is not None
        assert not outcome.failures
        held = (new,) if new else ()
        routes = {route["dst"] for route in nodes.a.space.ip_json("route", "show", "table", "4097")}
        assert routes == {"10.92.1.0/24", *(node.spec.pod_cidrs[0] for node in held)}
        given = inputs(nodes, version, *held)
        kept = call(engine.compare, given)[0]
        assert not call(engine.whole, given).written
        assert call(engine.compare, given)[0] is kept  # the plan that the change was carried over into
        fresh = nodes.a.space.call(lambda: Engine(nodes.a.settings))
        assert call(fresh.compare, given)[0] == kept  # is that of a whole one
        fresh.close()


def test_a_whole_round_carries_changes_over_where_it_knows_all_since_its_plan(nodes: Topology, engine: Engine) -> None:
    second, third, lost = (like(nodes.a.remotes[0], number) for number in (7, 8, 9))

    def whole(given: Inputs) -> Mapping[object, Route]:
        """The routes of its plan; the kernel has them."""
        assert nodes.a.space.call(lambda: engine.whole(given)).written
        assert not nodes.a.space.call(lambda: engine.whole(given)).written
        wanted, state, _ = nodes.a.space.call(lambda: engine.compare(given))
        fresh = nodes.a.space.call(lambda: Engine(nodes.a.settings))
        assert nodes.a.space.call(lambda: fresh.compare(given))[:2] == (wanted, state)
        assert wanted.marked == state.marked
        fresh.close()
        return wanted.marked.routes

    first = whole(inputs(nodes))
    steps = [(Pending(1, 2, [Change(None, second)]), second), (Pending(2, 3, [Change(second, third)]), third)]
    for pending, held in steps:
        given = dataclasses.replace(inputs(nodes, pending.version, held), pending=pending)
        assert whole(given) is first  # the same plan, carried on
    late = Pending(4, 5, [Change(None, lost)])  # what came between 3 and 4 is not known
    assert whole(dataclasses.replace(inputs(nodes, 5, second, lost), pending=late)) is not first


def test_a_round_without_news_reads_the_kernel_by_its_bytes(
    nodes: Topology, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dataclasses.replace(inputs(nodes), pending=Pending(1, 1, []))
    nodes.a.space.call(lambda: engine.whole(given))
    nodes.a.space.call(lambda: engine.whole(given))
    monkeypatch.setattr(messages, "routes", None)  # what takes a dump of routes apart
    assert not nodes.a.space.call(lambda: engine.whole(given)).written
