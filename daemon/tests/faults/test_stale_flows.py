"""F35: flows that were begun before the mesh knew their destination, or whose destination moved."""

from __future__ import annotations

import contextlib
import socket
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from clustermeshd.kernel.conntrack import Conntrack, Scope
from fault_mesh import Stream
from kernel_topology import MeshNode, Namespace, Topology
from kernel_traffic import Inbox, family_of

pytestmark = pytest.mark.faults
families = pytest.mark.parametrize("family", [4, 6])
POD_A, POD_B = {4: "10.91.1.5", 6: "fd91:1::5"}, {4: "10.92.1.5", 6: "fd92:1::5"}


class Flow:
    """A UDP sender with a fixed source port."""

    def __init__(self, space: Namespace, address: str, port: int = 7000) -> None:
        self._socket = space.call(lambda: socket.socket(family_of(address), socket.SOCK_DGRAM))
        self._socket.bind(("::" if ":" in address else "0.0.0.0", 5555))
        self._socket.connect((address, port))

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self) -> None:
        self._socket.send(b"same flow")


@pytest.fixture
def conntrack(nodes: Topology) -> Iterator[Conntrack]:
    made = nodes.a.space.call(Conntrack)
    yield made
    made.close()


def scope(node: MeshNode, family: int) -> Scope:
    """What node a's rules say towards node b."""

    def networks(texts: Iterable[str]) -> list[IPv4Network | IPv6Network]:
        return [network for network in map(ip_network, texts) if network.version == family]

    tunnel = node.local.tunnel_address(family)
    local = [network[0].packed + network[-1].packed for network in networks(node.pod_cidrs)]
    remote: dict[int, set[bytes]] = {}
    for network in networks(cidr for remote in node.remotes for cidr in remote.spec.pod_cidrs):
        remote.setdefault(network.prefixlen, set()).add(network[0].packed)
    return Scope(local, remote, tunnel.packed if tunnel else None)


def entries(space: Namespace, family: int) -> list[str]:
    kind = "ipv4" if family == 4 else "ipv6"
    return space.run("conntrack", "-L", "-f", kind, "-o", "id").splitlines()


def mesh_up(nodes: Topology) -> None:
    nodes.a.reconcile()
    nodes.b.reconcile()


@families
def test_F35_masqueraded_flow_moves_into_the_mesh_by_itself(nodes: Topology, family: int) -> None:
    with Flow(nodes.pod_a, POD_B[family]) as flow, Inbox(nodes.pod_b, POD_B[family]) as inbox:
        flow.send()
        mesh_up(nodes)
        flow.send()  # meets the entry of the other device, and is the last to do so
        flow.send()
        assert inbox.take(1) == (b"same flow", POD_A[family])


@pytest.mark.parametrize("sender", ["pod", "host"])
@families
def test_F35_flow_begun_before_the_mesh_moves_into_it_and_bears_the_right_source(
    nodes: Topology, conntrack: Conntrack, family: int, sender: str
) -> None:
    """The CNI gives pods a fixed address outside, which the kernel takes for as good by the mesh device."""
    space = nodes.pod_a if sender == "pod" else nodes.a.space
    expected = POD_A[family] if sender == "pod" else {4: "10.91.1.0", 6: "fd91:1::"}[family]
    nodes.a.space.run("nft", "flush chain inet cni post")
    nodes.a.space.run(
        "nft",
        """add rule inet cni post ip saddr 10.91.1.0/24 snat ip to 10.90.1.2;
        add rule inet cni post ip6 saddr fd91:1::/64 snat ip6 to fd90:1::2""",
    )
    with Flow(space, POD_B[family]) as flow, Inbox(nodes.pod_b, POD_B[family]) as inbox:
        flow.send()
        mesh_up(nodes)
        flow.send()
        flow.send()
        assert inbox.take(0.3) is None, "the flow needs no help"
        assert conntrack.forget(scope(nodes.a, family)) == 1
        flow.send()
        assert inbox.take(1) == (b"same flow", expected)
        assert conntrack.forget(scope(nodes.a, family)) == 0


@families
def test_F35_flow_through_a_service_address_is_judged_by_the_pod_behind_it(
    nodes: Topology, conntrack: Conntrack, family: int
) -> None:
    service = {4: "10.96.0.9", 6: "fd96::9"}[family]
    ip = "ip" if family == 4 else "ip6"
    nodes.a.space.run(
        "nft",
        f"table inet proxy {{ chain pre {{ type nat hook prerouting priority dstnat; "
        f"{ip} daddr {service} dnat {ip} to {POD_B[family]}; }}\n }}",
    )
    with Flow(nodes.pod_a, service) as flow, Inbox(nodes.pod_b, POD_B[family]) as inbox:
        flow.send()
        mesh_up(nodes)
        assert conntrack.forget(scope(nodes.a, family)) == 1
        flow.send()
        assert inbox.take(1) == (b"same flow", POD_A[family])


@families
def test_F35_no_other_entry_is_forgotten(nodes: Topology, conntrack: Conntrack, family: int) -> None:
    """Flows of the mesh that are right, flows to elsewhere, and flows that come from remote pods."""
    node_b = {4: "10.90.2.2", 6: "fd90:2::2"}[family]
    mesh_up(nodes)
    with (
        Stream(nodes.pod_a, nodes.pod_b, POD_B[family]) as right,
        Flow(nodes.pod_b, POD_A[family]) as inbound,
        Flow(nodes.pod_a, node_b) as masqueraded,
        Flow(nodes.a.space, node_b, 7003) as host,
    ):
        for flow in (inbound, masqueraded, host):
            flow.send()
        assert len(entries(nodes.a.space, family)) >= 4
        assert conntrack.forget(scope(nodes.a, family)) == 0
        assert right.lost() == 0
    assert len([line for line in entries(nodes.a.space, family) if "7000" in line or "7003" in line]) >= 3


def test_F35_flow_to_a_pod_that_moved_to_another_node_arrives_there_at_once(
    mesh: Topology, spaces: Callable[[str], Namespace]
) -> None:
    """Routing is by packet; only NAT is by flow, and that stays right: no entry has to be forgotten."""
    with Flow(mesh.pod_a, POD_B[4]) as flow:
        with Inbox(mesh.pod_b, POD_B[4]) as inbox:
            flow.send()
            assert inbox.take(1) == (b"same flow", POD_A[4])
        node_c, pod_c = mesh.node(spaces, 3, "dual")
        node_c.cluster, node_c.name = "cluster-2", "node3"
        node_c.pod_cidrs, mesh.b.pod_cidrs = mesh.b.pod_cidrs, ["10.92.9.0/24", "fd92:9::/64"]
        pod_c.ip("addr", "add", "10.92.1.5/32", "dev", "eth0")
        node_c.space.ip("route", "add", "10.92.1.5", "dev", "pod0")
        node_c.remotes = [mesh.a.as_remote()]
        node_c.reconcile()
        mesh.a.remotes = [mesh.b.as_remote(), node_c.as_remote()]
        mesh.a.reconcile()
        with Inbox(pod_c, POD_B[4]) as inbox:
            flow.send()
            assert inbox.take(1) == (b"same flow", POD_A[4])
    node_c.kernel.close()


def test_F35_look_at_many_connections_holds_few_of_them_at_a_time(mesh: Topology, conntrack: Conntrack) -> None:
    with mesh.a.space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        for port in range(10_000, 30_000):
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(b"", ("127.0.0.1", port))
    assert int(mesh.a.space.run("conntrack", "-C")) >= 20_000  # 5 MB as the kernel tells them
    tracemalloc.start()
    try:
        assert conntrack.forget(scope(mesh.a, 4)) == 0
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
