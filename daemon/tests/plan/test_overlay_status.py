"""What a node says of its peers: wanted, programmed, failed, and why."""

from __future__ import annotations

import dataclasses

from clustermeshd.kernel.state import Failure, Marked, Value
from clustermeshd.kube.objects import MeshNodePeer
from clustermeshd.plan.overlay import Desired
from clustermeshd.plan.overlay_status import summary
from test_overlay import AROUND, EMPTY, plan, remote

WEST = remote("west.node1", addresses=("10.0.1.1",), pod_cidrs=("10.2.0.0/24", "10.2.1.0/24"))
EAST = remote("east.node1", addresses=("10.0.2.1",), pod_cidrs=("10.3.0.0/24",))


def without(marked: Marked, *gone: Value) -> Marked:
    kinds = ("devices", "nexthops", "fdb", "neighbours", "routes")
    found = {kind: {k: v for k, v in getattr(marked, kind).items() if v not in gone} for kind in kinds}
    return dataclasses.replace(marked, **found)


def of(wanted: Desired, marked: Marked, *failures: Failure) -> dict[str, MeshNodePeer]:
    return {peer.name: peer for peer in summary(wanted, marked, failures).peers}


def counts(peer: MeshNodePeer) -> tuple[int, ...]:
    return peer.wanted_nodes, peer.programmed_nodes, peer.failed_nodes, peer.wanted_routes, peer.programmed_routes


def failure(kind: str, value: Value) -> Failure:
    return Failure(kind, str(value), "ENOMEM: Cannot allocate memory", 12, None if kind == "devices" else value)


def test_where_all_is_there_nothing_failed() -> None:
    wanted = plan(WEST, EAST)
    found = of(wanted, wanted.marked)
    assert {name: counts(peer) for name, peer in found.items()} == {"west": (1, 1, 0, 2, 2), "east": (1, 1, 0, 1, 1)}
    assert {peer.failed_reason for peer in found.values()} == {""}


def test_node_that_lacks_any_of_its_objects_has_failed_and_its_cluster_says_why() -> None:
    wanted = plan(WEST, EAST)
    marked = wanted.marked
    route = next(route for route in marked.routes.values() if route.prefix == bytes((10, 2, 1, 0)))
    hop = marked.nexthops[route.nexthop]
    neighbour = next(entry for entry in marked.neighbours.values() if entry.address == hop.gateway)
    fdb = marked.fdb[neighbour.device, neighbour.mac]
    for kind, value in (("routes", route), ("nexthops", hop), ("neighbours", neighbour), ("fdb", fdb)):
        found = of(wanted, without(marked, value), failure(kind, value))
        assert counts(found["west"]) == (1, 0, 1, 2, 1 if kind == "routes" else 2), kind
        assert found["west"].failed_reason == f"{value}: ENOMEM: Cannot allocate memory"
        assert counts(found["east"]) == (1, 1, 0, 1, 1)
        assert found["east"].failed_reason == ""


def test_a_failed_device_is_the_reason_of_all_that_fails_on_it() -> None:
    wanted = plan(WEST, EAST)
    marked = wanted.marked
    (device,) = marked.devices.values()
    gone = [device, *marked.nexthops.values(), *marked.routes.values()]
    failures = [failure("devices", device), *(failure("nexthops", hop) for hop in marked.nexthops.values())]
    found = of(wanted, without(marked, *gone), *failures)
    assert {counts(peer)[:3] for peer in found.values()} == {(1, 0, 1)}
    assert {peer.failed_reason for peer in found.values()} == {f"{device}: ENOMEM: Cannot allocate memory"}


def test_a_node_that_is_refused_has_failed_for_that_reason_beside_a_failure_of_another_cluster() -> None:
    twin = remote("north.node1", addresses=("10.0.3.1",), pod_cidrs=("10.4.0.0/24",), vtep_mac="0e:00:00:00:00:01")
    other = remote("south.node1", addresses=("10.0.4.1",), pod_cidrs=("10.5.0.0/24",), vtep_mac="0e:00:00:00:00:01")
    wanted = plan(WEST, twin, other)
    hop = next(hop for hop in wanted.marked.nexthops.values() if hop.gateway[1] == 2)
    found = of(wanted, without(wanted.marked, hop), failure("nexthops", hop))
    assert counts(found["south"])[:3] == (1, 0, 1)
    assert found["south"].failed_reason == "south.node1: another node has the same tunnel MAC"
    assert counts(found["north"])[:3] == (1, 1, 0)
    assert found["west"].failed_reason == f"{hop}: ENOMEM: Cannot allocate memory"


def test_without_an_underlay_every_node_has_failed_for_that_reason() -> None:
    around = dataclasses.replace(AROUND, addresses=())
    wanted = plan(WEST, state=dataclasses.replace(EMPTY, around=around))
    found = of(wanted, Marked())
    assert counts(found["west"])[:3] == (1, 0, 1)
    assert "is on no interface of this node" in found["west"].failed_reason


def test_a_node_that_fails_in_both_families_is_one_node() -> None:
    cidrs = ("10.2.0.0/24", "fd02::/64")
    nodes = [
        remote("west.node1", addresses=("10.0.1.1", "fd00:1::1"), pod_cidrs=cidrs, vtep_mac="0e:00:00:00:00:01"),
        remote("west.node2", addresses=("10.0.1.2",), pod_cidrs=("10.2.1.0/24",), vtep_mac="0e:00:00:00:00:02"),
    ]
    wanted = plan(*nodes)
    assert len(wanted.marked.nexthops) == 3
    hops = [hop for hop in wanted.marked.nexthops.values() if hop.gateway[:3] != bytes((10, 2, 1))]
    found = of(wanted, without(wanted.marked, *hops), *(failure("nexthops", hop) for hop in hops))
    assert counts(found["west"])[:3] == (2, 1, 1)
