"""F13 to F15 and F36: remote nodes that are renamed, move, are rebooted, reuse an address, or know us one-sidedly."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from agent_process import until
from clustermeshd.kernel.state import Marked
from clustermeshd.kube.objects import Metadata, RemoteNode
from fault_mesh import Drive, Stream, phantom
from kernel_topology import MeshNode, Namespace, Topology
from kernel_traffic import Echo, Inbox, ask, send_udp, tunnel_packet

pytestmark = pytest.mark.faults


def bound(marked: Marked, family: int) -> list[tuple[str, bytes]]:
    """Inner prefixes (length in the set's name, first address), once for each node that may send from them."""
    assert marked.nft is not None
    outer_bytes = 4 if family == 4 else 16
    sets = {name: found for name, found in marked.nft.elements.items() if name.startswith(f"peers{family}{family}")}
    return [(name, element[outer_bytes:]) for name, elements in sets.items() for element in elements]


def check_owners(marked: Marked, remotes: list[RemoteNode]) -> None:
    """One route per prefix, each prefix bound to the addresses of one node, and nothing of anybody else."""
    prefixes = [(route.prefix, route.length) for route in marked.routes.values()]
    assert len(prefixes) == len(set(prefixes))
    for family in (4, 6):
        sources = bound(marked, family)
        assert len(sources) == len(set(sources)), "a prefix may come from two nodes"
    assert len(marked.nexthops) == 2 * len(remotes)
    assert len(marked.fdb) == 2 * len(remotes)
    assert len(marked.neighbours) == 2 * len(remotes)


def same_as_fresh(node: MeshNode, remotes: list[RemoteNode]) -> None:
    """What stands in the kernel is what an agent would write that had never seen anything else."""
    node.remotes = remotes
    wanted, actual = node.plan()
    assert wanted.marked == actual.marked
    assert wanted.problems == ()


def renamed(remote: RemoteNode, name: str, *, created: str) -> RemoteNode:
    metadata = Metadata(name=name, creation_timestamp=created)
    return RemoteNode(metadata=metadata, spec=remote.spec)


def holding(remote: RemoteNode, *cidrs: str) -> RemoteNode:
    """The same node with other prefixes, and its tunnel addresses in them."""
    tunnels = tuple(cidr.partition("/")[0] for cidr in cidrs)
    spec = msgspec.structs.replace(remote.spec, pod_cidrs=cidrs, tunnel_addresses=tunnels)
    return msgspec.structs.replace(remote, spec=spec)


@pytest.mark.parametrize("order", ["gone before new", "new before gone"])
def test_F13_renamed_remote_node_keeps_its_prefixes_with_one_owner(mesh: Topology, drive: Drive, order: str) -> None:
    driver = drive(mesh.a)
    other, old = phantom(1), renamed(mesh.b.as_remote(), "cluster-2.node1", created="2026-01-01T00:00:00Z")
    driver.settle([other, old])
    mesh.b.name = "node1-renamed"
    drive(mesh.b).settle(mesh.b.remotes)
    new = renamed(mesh.b.as_remote(), "cluster-2.node1-renamed", created="2026-02-01T00:00:00Z")
    between = [other] if order == "gone before new" else [other, old, new]
    driver.follow([other, old], between)
    prefixes = [route.prefix for route in mesh.a.observe().marked.routes.values()]
    assert len(prefixes) == len(set(prefixes))
    driver.follow(between, [other, new])
    check_owners(mesh.a.observe().marked, [other, new])
    same_as_fresh(mesh.a, [other, new])
    with Echo(mesh.pod_b, "10.92.1.5"):
        assert ask(mesh.pod_a, "10.92.1.5") == "10.91.1.5"


def test_F13_remote_node_with_a_new_address_is_one_entry_rewritten(mesh: Topology, drive: Drive) -> None:
    driver = drive(mesh.a)
    other, old = phantom(1), mesh.b.as_remote()
    driver.settle([other, old])
    before = mesh.a.observe().marked
    mesh.b.space.batch("""
        addr add 10.90.2.3/24 dev eth0
        addr add fd90:2::3/64 dev eth0 nodad""")
    mesh.b.addresses = ["10.90.2.3", "fd90:2::3"]
    mesh.b.reconcile()
    driver.follow([other, old], [other, mesh.b.as_remote()])
    after = mesh.a.observe().marked
    assert (after.routes, after.nexthops, after.neighbours) == (before.routes, before.nexthops, before.neighbours)
    assert sum(after.fdb[key] != before.fdb[key] for key in before.fdb) == 2
    check_owners(after, [other, mesh.b.as_remote()])
    same_as_fresh(mesh.a, [other, mesh.b.as_remote()])
    for address, seen in (("10.92.1.5", "10.91.1.5"), ("fd92:1::5", "fd91:1::5")):
        with Echo(mesh.pod_b, address):
            assert ask(mesh.pod_a, address) == seen


def test_F13_prefix_that_moves_to_another_node_has_one_owner_at_every_moment(mesh: Topology, drive: Drive) -> None:
    driver = drive(mesh.a)
    b, empty = mesh.b.as_remote(), phantom(1)
    moved, bare = holding(empty, "10.92.1.0/24", "fd92:1::/64"), holding(b, "10.92.2.0/24", "fd92:2::/64")
    steps = [[b, empty], [b, moved], [bare, moved], [b, moved], [b, empty]]
    driver.settle(steps[0])
    for before, after in itertools.pairwise(steps):
        driver.follow(before, after)
        marked = mesh.a.observe().marked
        owners = [route for route in marked.routes.values() if route.key[:2] == (bytes((10, 92, 1, 0)), 24)]
        assert len(owners) == 1
        assert bound(marked, 4).count(("peers44_24", bytes((10, 92, 1, 0)))) == 1
    same_as_fresh(mesh.a, steps[-1])


@pytest.mark.parametrize("order", ["gone before new", "new before gone"])
def test_F14_node_that_reuses_the_address_of_a_removed_one_works(mesh: Topology, drive: Drive, order: str) -> None:
    """Node b of cluster 2 stands where a node of cluster 9 stood."""
    driver = drive(mesh.a)
    b, other, gone = mesh.b.as_remote(), phantom(1), phantom(2)
    gone = msgspec.structs.replace(gone, spec=msgspec.structs.replace(gone.spec, addresses=b.spec.addresses))
    between = [other] if order == "gone before new" else [other, gone, b]
    driver.settle([other, gone])
    driver.follow([other, gone], between)
    driver.follow(between, [other, b])
    check_owners(mesh.a.observe().marked, [other, b])
    same_as_fresh(mesh.a, [other, b])
    for address, seen in (("10.92.1.5", "10.91.1.5"), ("fd92:1::5", "fd91:1::5")):
        with Echo(mesh.pod_b, address):
            assert ask(mesh.pod_a, address) == seen
    with Inbox(mesh.pod_a, "10.91.1.5") as inbox:  # nor may the new one speak for the old one's pods
        mac = mesh.a.observe().marked.devices["clustermesh0"].mac
        send_udp(mesh.b.space, "10.90.1.2", 4790, tunnel_packet(4097, mac, "10.99.2.7", "10.91.1.5"))
        assert inbox.take(0.2) is None


def reboot(space: Namespace) -> None:
    """Everything the kernel held is gone, as after a reboot; the name stays."""
    space._run("ip", "netns", "del", space.name)
    space._run("ip", "netns", "add", space.name)
    space.ip("link", "set", "lo", "up")
    space.sysctl("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")


def test_F15_rebooted_node_has_its_full_state_again_and_peers_lost_only_that_node(mesh: Topology) -> None:
    other = phantom(1)
    mesh.a.remotes = [other, mesh.b.as_remote()]
    mesh.a.reconcile()
    peers, whole = mesh.a.observe().marked, mesh.b.observe().marked
    mesh.b.kernel.close()
    for space in (mesh.b.space, mesh.pod_b):
        reboot(space)
    until(lambda: "to2" not in mesh.router.ip("link"), 5)
    names = {"n2": mesh.b.space, "p2": mesh.pod_b}
    mesh.b, _ = mesh.node(names.__getitem__, 2, "dual")
    mesh.b.remotes = [mesh.a.as_remote()]
    assert mesh.b.observe().marked == Marked()
    mesh.b.reconcile()
    assert mesh.b.observe().marked == whole
    with Stream(mesh.pod_a, mesh.pod_b, "10.92.1.5") as stream:
        assert stream.lost() == 0
    assert mesh.a.observe().marked == peers, "a peer changed something because another one was rebooted"


def test_F36_node_that_we_do_not_know_gets_nothing_through_and_is_counted(mesh: Topology, drive: Drive) -> None:
    """Cluster 2 has a RemoteClusterConfiguration for us; we have none for it."""
    driver = drive(mesh.a)
    driver.settle([phantom(1)])
    counter = "nft list chain inet clustermesh inner"
    with Inbox(mesh.pod_a, "10.91.1.5") as inbox:
        send_udp(mesh.pod_b, "10.91.1.5", 7000, b"one way")
        assert inbox.take(0.2) is None
        assert "counter packets 1 " in mesh.a.space.run(*counter.split())
        driver.follow([phantom(1)], [phantom(1), mesh.b.as_remote()])
        send_udp(mesh.pod_b, "10.91.1.5", 7000, b"both ways")
        assert inbox.take(1) == (b"both ways", "10.92.1.5")
