"""The overlay plan as tables and as properties: any order, duplicates and replays end in the same kernel."""

from __future__ import annotations

import dataclasses
import itertools
import random
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from clustermeshd.agent.packed import Unpacked, pack
from clustermeshd.kernel.state import (
    Changes,
    Device,
    HostAddress,
    KernelState,
    Link,
    LocalAddress,
    Marked,
    NftTable,
    Surroundings,
    keyed,
)
from clustermeshd.kube.objects import Metadata, Node, NodeAddress, NodeSpec, NodeStatus, RemoteNode, RemoteNodeSpec
from clustermeshd.model.settings import Dataplane
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay import Change, Desired, Overlay, desired
from clustermeshd.plan.overlay_local import LocalNode, local_node
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = Dataplane()
LOCAL = LocalNode(
    name="node1",
    cluster_id="here",
    addresses=(ip_address("10.0.0.1"), ip_address("fd00::1")),
    pod_cidrs=(ip_network("10.1.0.0/24"), ip_network("fd01::/64")),
    tunnel_addresses=(ip_address("10.1.0.0"), ip_address("fd01::")),
)
AROUND = Surroundings(
    links={"lo": Link(1, "lo", 65536, "", True), "eth0": Link(2, "eth0", 1500, "", True)},
    addresses=(
        LocalAddress(ip_address("10.0.0.1").packed, 24, "eth0"),
        LocalAddress(ip_address("fd00::1").packed, 64, "eth0"),
    ),
)
EMPTY = KernelState(Marked(), AROUND)


def remote(name: str = "west.node1", created: str = "2026-01-01T00:00:00Z", **spec: object) -> RemoteNode:
    cluster, _, node = name.partition(".")
    given = {
        "cluster_id": f"id-{cluster}",
        "cluster_name": cluster,
        "node_name": node,
        "overlay_routing_mode": "Enabled",
        "addresses": ("10.0.1.1",),
        "pod_cidrs": ("10.2.0.0/24",),
    } | spec
    given.setdefault("tunnel_addresses", tuple(cidr.partition("/")[0] for cidr in given["pod_cidrs"]))
    return RemoteNode(metadata=Metadata(name=name, creation_timestamp=created), spec=RemoteNodeSpec(**given))


def plan(*remotes: RemoteNode, local: LocalNode = LOCAL, state: KernelState = EMPTY) -> Desired:
    return desired(local, remotes, SETTINGS, state)


def reasons(wanted: Desired) -> list[tuple[str, str]]:
    return [(problem.reason, problem.object) for problem in wanted.problems]


def interval(text: str) -> bytes:
    """A prefix as an element of an interval set."""
    return ip_network(text)[0].packed + ip_network(text)[-1].packed


def prefixes(wanted: Desired) -> set[str]:
    return {str(ip_network((route.prefix, route.length))) for route in wanted.marked.routes.values()}


def test_a_remote_node_is_one_of_each_and_a_route_per_prefix() -> None:
    wanted = plan(remote(pod_cidrs=("10.2.0.0/24", "10.2.1.0/24")))
    assert wanted.problems == ()
    marked = wanted.marked
    assert [len(kind) for kind in (marked.devices, marked.nexthops, marked.fdb, marked.neighbours)] == [1, 1, 1, 1]
    assert prefixes(wanted) == {"10.2.0.0/24", "10.2.1.0/24"}
    (nexthop,) = marked.nexthops.values()
    assert {route.nexthop for route in marked.routes.values()} == {nexthop.id}
    assert {route.source for route in marked.routes.values()} == {bytes((10, 1, 0, 0))}
    assert {route.mtu for route in marked.routes.values()} == {1450}


def test_both_families_have_their_own_device_on_their_own_underlay() -> None:
    wanted = plan(remote(addresses=("10.0.1.1", "fd00:1::1"), pod_cidrs=("10.2.0.0/24", "fd02::/64")))
    devices = wanted.marked.devices
    assert {name: (len(d.local), d.vni, d.mtu) for name, d in devices.items()} == {
        "clustermesh0": (4, 4097, 1450),
        "clustermesh0v6": (16, 4098, 1430),
    }


def test_ipv6_pods_cross_an_ipv4_underlay_where_the_node_has_no_other() -> None:
    local = dataclasses.replace(LOCAL, addresses=LOCAL.addresses[:1])
    wanted = plan(remote(pod_cidrs=("fd02::/64",), tunnel_addresses=()), local=local)
    (device,) = wanted.marked.devices.values()
    assert (device.name, len(device.local), device.mtu) == ("clustermesh0v6", 4, 1450)


def test_tunnel_address_outside_the_pod_cidrs_gets_a_route_of_its_own() -> None:
    wanted = plan(remote(tunnel_addresses=("10.9.9.9",)))
    assert prefixes(wanted) == {"10.2.0.0/24", "10.9.9.9/32"}
    (nexthop,) = wanted.marked.nexthops.values()
    assert nexthop.gateway == bytes((10, 9, 9, 9))


def test_without_remote_nodes_a_node_is_left_untouched() -> None:
    assert plan() == Desired(Marked(), ())


def test_disabled_overlay_is_only_the_nat_exemption_and_an_address_to_probe_from() -> None:
    wanted = plan(remote(overlay_routing_mode="Disabled"))
    assert wanted.marked.nft is not None
    assert wanted.marked.nft.elements["remote_pods4_24"] == {ip_address("10.2.0.0").packed}
    probed_from = keyed([HostAddress(ip_address("10.1.0.0").packed)])
    assert dataclasses.replace(wanted.marked, nft=None) == Marked(addresses=probed_from)


def test_bound_inner_sources_are_the_nodes_own_prefixes() -> None:
    wanted = plan(remote(), remote("west.node2", addresses=("10.0.1.2",), pod_cidrs=("10.2.1.0/24",)))
    assert wanted.marked.nft is not None
    assert wanted.marked.nft.elements["peers44_24"] == {
        ip_address("10.0.1.1").packed + ip_address("10.2.0.0").packed,
        ip_address("10.0.1.2").packed + ip_address("10.2.1.0").packed,
    }


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"pod_cidrs": ("10.1.0.128/25",)}, "OverlapsLocal"),
        ({"pod_cidrs": ("10.0.0.0/16",)}, "CoversUnderlay"),
        ({"pod_cidrs": ("127.0.0.0/24",)}, "ReservedPrefix"),
        ({"pod_cidrs": ("0.0.0.0/0",)}, "ReservedPrefix"),
        ({"pod_cidrs": ("10.2.0.1/24",), "tunnel_addresses": ()}, "InvalidPrefix"),
        ({"addresses": ("fd00:1::1",)}, "NoUnderlayAddress"),
        ({"addresses": ("10.0.0.1",)}, "OwnAddress"),
        ({"addresses": ("nowhere",)}, "InvalidAddress"),
        ({"cluster_id": "here"}, "OwnCluster"),
    ],
)
def test_a_bad_remote_node_is_refused_and_a_good_one_beside_it_works(spec: dict[str, object], reason: str) -> None:
    wanted = plan(remote(**spec), remote("east.node9", addresses=("10.0.2.1",), pod_cidrs=("10.3.0.0/24",)))
    assert (reason, "west.node1") in reasons(wanted)
    assert "10.3.0.0/24" in prefixes(wanted)
    assert len(wanted.marked.nexthops) == 1


def test_the_oldest_claim_wins_a_contested_prefix() -> None:
    young = remote("a.node1", created="2026-02-01T00:00:00Z", addresses=("10.0.3.1",), pod_cidrs=("10.2.0.0/16",))
    wanted = plan(young, remote())
    assert ("OverlapsRemote", "a.node1") in reasons(wanted)
    assert prefixes(wanted) == {"10.2.0.0/24"}


def test_within_a_cluster_a_borrowed_address_is_routed_to_its_borrower() -> None:
    borrower = remote("west.node2", addresses=("10.0.1.2",), pod_cidrs=("10.2.0.7/32",), tunnel_addresses=())
    wanted = plan(remote(), borrower)
    assert wanted.problems == ()
    assert prefixes(wanted) == {"10.2.0.0/24", "10.2.0.7/32"}


def test_equal_node_names_of_two_clusters_do_not_meet() -> None:
    wanted = plan(remote(), remote("east.node1", addresses=("10.0.2.1",), pod_cidrs=("10.3.0.0/24",)))
    assert wanted.problems == ()
    assert len(wanted.marked.fdb) == len(wanted.marked.nexthops) == 2


def test_meeting_hashes_get_different_ids_decided_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustermeshd.plan.overlay_index.FIRST_NEXTHOP", 4)
    many = [
        remote(f"west.node{n}", addresses=(f"10.0.1.{n}",), pod_cidrs=(f"10.2.{n}.0/24",), tunnel_addresses=())
        for n in range(1, 5)
    ]
    wanted = plan(*many)
    assert sorted(wanted.marked.nexthops) == [4, 5, 6, 7]
    assert plan(*reversed(many)).marked == wanted.marked


def test_a_foreign_nexthop_id_is_stepped_over() -> None:
    (number,) = plan(remote()).marked.nexthops
    taken = KernelState(Marked(), dataclasses.replace(AROUND, foreign_nexthops=frozenset({number})))
    assert list(plan(remote(), state=taken).marked.nexthops) == [number + 1]


def test_tunnel_address_held_by_another_device_is_not_put_on_lo() -> None:
    flannel = LocalAddress(bytes((10, 1, 0, 0)), 32, "flannel.1")
    around = dataclasses.replace(AROUND, addresses=(*AROUND.addresses, flannel))
    wanted = plan(remote(), state=KernelState(Marked(), around))
    assert not wanted.marked.addresses
    assert {route.source for route in wanted.marked.routes.values()} == {bytes((10, 1, 0, 0))}
    assert list(plan(remote()).marked.addresses) == [bytes((10, 1, 0, 0))]


def test_a_lost_internal_ip_keeps_the_device_where_it_stands() -> None:
    before = plan(remote())
    gone = dataclasses.replace(AROUND, addresses=())
    after = plan(remote(), state=KernelState(before.marked, gone))
    assert reasons(after) == [("NoUnderlay", "node1")]
    assert not diff(after.marked, before.marked)


def test_settings_that_stop_packets_are_told_and_not_changed() -> None:
    links = AROUND.links | {"eth0": Link(2, "eth0", 1300, "", True)}
    around = dataclasses.replace(AROUND, links=links, forwarding={4: False, 6: True})
    both = remote(addresses=("10.0.1.1", "fd00:1::1"), pod_cidrs=("10.2.0.0/24", "fd02::/64"))
    found = reasons(plan(both, state=KernelState(Marked(), around)))
    assert found == [("ForwardingOff", "net.ipv4.ip_forward"), ("MTUTooSmall", "clustermesh0v6")]


def test_local_node_prefers_the_tunnel_address_of_calico() -> None:
    node = Node(
        metadata=Metadata(name="n", annotations={"projectcalico.org/IPv4VXLANTunnelAddr": "10.1.7.7"}),
        spec=NodeSpec(pod_cidrs=("10.1.0.0/24", "fd01::/64")),
        status=NodeStatus(addresses=(NodeAddress("Hostname", "n"), NodeAddress("InternalIP", "10.0.0.1"))),
    )
    local = local_node(node, "here")
    assert list(map(str, local.tunnel_addresses)) == ["10.1.7.7", "fd01::"]
    assert list(map(str, local.addresses)) == ["10.0.0.1"]


# ---- properties


def model_apply(actual: Marked, changes: Changes) -> Marked:
    """What a kernel does with changes, as far as a dictionary can say it."""
    kinds: dict[str, dict] = {}
    rebuilt = {d.name for d in changes.devices.put if (old := actual.devices.get(d.name)) and d.needs_rebuild(old)}
    lost = rebuilt | {device.name for device in changes.devices.delete}
    for kind, delta in changes.deltas():
        held = dict(getattr(actual, kind))
        if kind in ("nexthops", "fdb", "neighbours"):
            held = {key: value for key, value in held.items() if value.device not in lost}
        if kind == "routes":
            held = {key: value for key, value in held.items() if value.nexthop in kinds["nexthops"]}
        for value in delta.delete:
            held.pop(value.key, None)
        held.update(keyed(delta.put))
        kinds[kind] = held
    return Marked(**kinds, nft=model_nft(actual.nft, changes))


def model_nft(actual: NftTable | None, changes: Changes) -> NftTable | None:
    change = changes.nft
    if change is None:
        return actual
    if change.table is None:
        return None
    assert change.is_new == (actual is None)
    held = {} if actual is None else {name: set(found) for name, found in actual.elements.items()}
    for name, elements in change.remove.items():
        assert set(elements) <= held[name], "removes what is not there"
        held[name] -= set(elements)
    for name, elements in change.add.items():
        assert not set(elements) & held.setdefault(name, set()), "adds what is there"
        held[name] |= set(elements)
    known = set() if actual is None else actual.elements.keys()
    sets = known - set(change.remove_sets) | (set(change.add_sets) if known else change.table.elements.keys())
    assert sets == change.table.elements.keys()
    elements = {name: frozenset(held.get(name, ())) for name in sets}
    rules = change.table.rules if change.write_rules or actual is None else actual.rules
    return NftTable(change.table.chains, change.table.sets, rules, elements)


@st.composite
def worlds(draw: st.DrawFn) -> list[RemoteNode]:
    """Remote nodes that collide often: few addresses, few prefixes, few names."""
    nodes = {}
    for _ in range(draw(st.integers(0, 7))):
        cluster, node = draw(st.sampled_from(["east", "west"])), draw(st.integers(1, 4))
        cidrs = draw(
            st.sets(
                st.sampled_from(
                    ["10.2.0.0/24", "10.2.0.0/16", "10.2.0.9/32", "10.3.0.0/24", "fd02::/64", "10.1.0.0/25"]
                ),
                max_size=3,
            )
        )
        nodes[cluster, node] = remote(
            f"{cluster}.node{node}",
            created=draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])),
            overlay_routing_mode=draw(st.sampled_from(["Enabled", "Enabled", "Disabled"])),
            addresses=tuple(draw(st.sampled_from([("10.0.1.1",), ("10.0.1.2", "fd00:1::2"), ("fd00:1::3",), ()]))),
            pod_cidrs=tuple(sorted(cidrs)),
            tunnel_addresses=tuple(draw(st.sampled_from([(), ("10.2.0.0",), ("10.8.0.1",)]))),
        )
    return list(nodes.values())


@settings(max_examples=60)
@given(worlds())
def test_what_an_agent_keeps_of_remote_nodes_gives_the_same_plan(world: list[RemoteNode]) -> None:
    whole = [
        msgspec.structs.replace(
            node, metadata=msgspec.structs.replace(node.metadata, uid=f"u{place}", resource_version=str(place))
        )
        for place, node in enumerate(world)
    ]
    kept = list(Unpacked(map(pack, whole)))
    assert plan(*kept) == plan(*whole)
    assert [node.spec for node in kept] == [node.spec for node in whole]
    assert [pack(node).key for node in whole] == [node.key for node in whole]


@settings(max_examples=60)
@given(worlds(), st.randoms(use_true_random=False))
def test_order_and_duplicates_do_not_matter(world: list[RemoteNode], rng: random.Random) -> None:
    shuffled = world * 2
    rng.shuffle(shuffled)
    assert plan(*shuffled).marked == plan(*world).marked


@settings(max_examples=60)
@given(worlds(), worlds())
def test_applying_a_difference_gives_the_desired_state(before: list[RemoteNode], after: list[RemoteNode]) -> None:
    first = model_apply(Marked(), diff(plan(*before).marked, Marked()))
    assert first == plan(*before).marked
    wanted = plan(*after, state=KernelState(first, AROUND)).marked
    second = model_apply(first, diff(wanted, first))
    assert second == wanted
    assert not diff(wanted, second)


@settings(max_examples=40)
@given(st.lists(worlds(), min_size=1, max_size=3))
def test_history_leaves_no_trace(history: list[list[RemoteNode]]) -> None:
    held = Marked()
    for world in history:
        held = model_apply(held, diff(plan(*world, state=KernelState(held, AROUND)).marked, held))
    assert held == plan(*history[-1]).marked


def changes_between(before: list[RemoteNode], after: list[RemoteNode]) -> list[Change]:
    old, new = ({node.metadata.name: node for node in world} for world in (before, after))
    pairs = [Change(old.get(name), new.get(name)) for name in sorted(old | new)]
    return [change for change in pairs if change.old != change.new]


def distinct(number: int, cluster: str, *, is_moved: bool) -> RemoteNode:
    """A remote node that claims nothing which another one claims."""
    return remote(
        f"{cluster}.node{number}",
        addresses=(f"10.0.{8 + is_moved}.{number}", f"fd00:8::{number}"),
        pod_cidrs=(f"10.{20 + number}.{int(is_moved)}.0/24", f"fd02:{number}::/64"),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[list[RemoteNode]]:
    """Worlds of nodes most of which keep to themselves, so that changes of single nodes are many."""
    return [
        [
            *(distinct(number, "north", is_moved=draw(st.booleans())) for number in draw(st.sets(st.integers(1, 6)))),
            *(draw(worlds()) if draw(st.integers(0, 3)) == 0 else []),
        ]
        for _ in range(draw(st.integers(2, 5)))
    ]


@settings(max_examples=150)
@given(histories())
def test_changing_single_nodes_gives_what_a_whole_plan_gives(history: list[list[RemoteNode]]) -> None:
    overlay = Overlay(SETTINGS)
    held = model_apply(Marked(), diff(overlay.plan(LOCAL, history[0], EMPTY).marked, Marked()))
    for before, after in itertools.pairwise(history):
        whole = plan(*after)
        made = overlay.change(changes_between(before, after))
        if made is None:
            wanted = overlay.plan(LOCAL, after, EMPTY)
            changes = diff(wanted.marked, held)
        else:
            wanted, changes = made
        assert wanted == whole
        held = model_apply(held, changes)
        assert held == whole.marked


def test_a_node_that_keeps_to_itself_needs_no_whole_plan() -> None:
    first, second = distinct(1, "north", is_moved=False), distinct(2, "west", is_moved=False)
    moved = distinct(2, "west", is_moved=True)
    overlay = Overlay(SETTINGS)
    overlay.plan(LOCAL, [first], EMPTY)
    for step in (Change(None, second), Change(second, moved), Change(moved, None)):
        made = overlay.change([step])
        assert made is not None
        assert all(len(delta.put) <= 2 for _, delta in made[1].deltas())
    assert made[0] == plan(first)


@pytest.mark.parametrize(
    "meeting",
    [
        {"pod_cidrs": ("10.21.0.128/25",)},
        {"pod_cidrs": ("10.0.0.0/8",)},
        {"pod_cidrs": ("10.0.8.0/24",)},
        {"pod_cidrs": ("10.66.0.0/24",), "addresses": ("10.21.0.5",)},
        {"pod_cidrs": ("10.66.0.0/24",), "addresses": ("10.0.8.1",)},
        {"cluster_id": "id-north", "node_name": "node1", "pod_cidrs": ("10.66.0.0/24",)},
        {"cluster_id": "here", "pod_cidrs": ("10.66.0.0/24",)},
        {"vtep_mac": "0e:00:00:00:00:01", "pod_cidrs": ("10.66.0.0/24",)},
        {"overlay_routing_mode": "Disabled", "cluster_name": "north", "pod_cidrs": ("10.66.0.0/24",)},
        {"pod_cidrs": ("nonsense",)},
    ],
)
def test_a_node_that_meets_another_calls_for_a_whole_plan(meeting: dict[str, object]) -> None:
    first = distinct(1, "north", is_moved=False)
    first = msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, vtep_mac="0e:00:00:00:00:01"))
    overlay = Overlay(SETTINGS)
    overlay.plan(LOCAL, [first], EMPTY)
    assert overlay.change([Change(None, remote("south.node7", **meeting))]) is None


@settings(max_examples=60)
@given(worlds())
def test_every_object_leans_on_one_that_is_there(world: list[RemoteNode]) -> None:
    marked = plan(*world).marked
    neighbours = {(n.device, n.address): n.mac for n in marked.neighbours.values()}
    for route in marked.routes.values():
        nexthop = marked.nexthops[route.nexthop]
        mac = neighbours[nexthop.device, nexthop.gateway]
        assert (nexthop.device, mac) in marked.fdb
        assert nexthop.device in marked.devices
    assert len(neighbours) == len(marked.nexthops) == len(marked.fdb)


@settings(max_examples=60)
@given(worlds())
def test_nothing_local_is_ever_routed_away(world: list[RemoteNode]) -> None:
    for route in plan(*world).marked.routes.values():
        prefix = ip_network((route.prefix, route.length))
        assert not any(prefix.version == own.version and prefix.overlaps(own) for own in LOCAL.pod_cidrs)


def test_a_device_that_must_be_made_anew_brings_back_all_behind_it() -> None:
    wanted = plan(remote()).marked
    (device,) = wanted.devices.values()
    other = dataclasses.replace(wanted, devices=keyed([dataclasses.replace(device, vni=9)]))
    changes = diff(wanted, other)
    assert [len(delta.put) for _, delta in changes.deltas()] == [1, 0, 1, 1, 1, 1, 0, 0]
    moved = dataclasses.replace(wanted, devices=keyed([dataclasses.replace(device, mtu=9)]))
    assert [len(delta.put) for _, delta in diff(wanted, moved).deltas()] == [1, 0, 0, 0, 0, 0, 0, 0]


def test_uninstall_removes_everything_and_then_nothing() -> None:
    wanted = plan(remote()).marked
    changes = diff(Marked(), wanted)
    assert model_apply(wanted, changes) == Marked()
    assert not diff(Marked(), Marked())
    assert isinstance(changes.devices.delete[0], Device)
