"""Real packets between real namespaces: what the data plane promises to pods."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from clustermeshd.model.addresses import vtep_mac
from kernel_topology import Namespace, Topology
from kernel_traffic import Capture, Echo, Inbox, Sink, ask, opens_tcp, send_tcp, send_udp, tunnel_packet

POD_A = {4: "10.91.1.5", 6: "fd91:1::5"}
POD_B = {4: "10.92.1.5", 6: "fd92:1::5"}
TUNNEL_A = {4: "10.91.1.0", 6: "fd91:1::"}
TUNNEL_B = {4: "10.92.1.0", 6: "fd92:1::"}
IP = {4: "ip", 6: "ip6"}
WILDCARD = {4: "0.0.0.0", 6: "::"}
MAC_B = bytes.fromhex(vtep_mac("cluster-2", "node1").replace(":", ""))
VNI = {4: 4097, 6: 4098}
families = pytest.mark.parametrize("family", [4, 6])


@families
def test_remote_pod_sees_the_source_address_of_the_pod(mesh: Topology, family: int) -> None:
    with Echo(mesh.pod_b, POD_B[family]):
        assert ask(mesh.pod_a, POD_B[family]) == POD_A[family]
    with Echo(mesh.pod_a, POD_A[family]):
        assert ask(mesh.pod_b, POD_A[family]) == POD_B[family]


@families
def test_without_the_mesh_the_same_packet_finds_no_way(nodes: Topology, family: int) -> None:
    with Echo(nodes.pod_b, POD_B[family]):
        assert ask(nodes.pod_a, POD_B[family], timeout_s=0.3).startswith("none")


@pytest.mark.parametrize("underlay", ["v4", "v6"])
@families
def test_each_family_crosses_an_underlay_of_the_other(
    spaces: Callable[[str], Namespace], underlay: str, family: int
) -> None:
    mesh = Topology(spaces, underlay)
    mesh.a.reconcile()
    mesh.b.reconcile()
    with Echo(mesh.pod_b, POD_B[family]):
        assert ask(mesh.pod_a, POD_B[family]) == POD_A[family]
    overhead = {"v4": 50, "v6": 70}[underlay]
    device = mesh.a.observe().marked.devices[mesh.a.settings.device_of(family)]
    assert device.mtu == 1500 - overhead
    mesh.close()


def test_cluster_whose_nodes_have_one_family_takes_both_from_one_that_chooses_that_family(nodes: Topology) -> None:
    """Each inner family has one outer family on a node, its own where there is one: docs/coexistence.md."""
    nodes.b.addresses = nodes.b.addresses[:1]
    nodes.a.remotes = [nodes.b.as_remote()]
    for chosen, reaches in (("", False), ("10.90.0.0/16", True)):
        nodes.a.settings = replace(nodes.a.settings, underlay_cidr=chosen)
        nodes.a.reconcile()
        nodes.b.reconcile()
        problems = {problem.reason for problem in nodes.a.plan()[0].problems}
        assert problems == (set() if reaches else {"NoUnderlayAddress"})
        with Echo(nodes.pod_b, POD_B[4]), Echo(nodes.pod_b, POD_B[6]):
            assert ask(nodes.pod_a, POD_B[4]) == POD_A[4]
            assert (ask(nodes.pod_a, POD_B[6], timeout_s=0.5) == POD_A[6]) is reaches


def test_the_underlay_carries_vxlan_between_routed_node_addresses(mesh: Topology) -> None:
    with Capture(mesh.router, "to2") as capture, Echo(mesh.pod_b, POD_B[4]):
        assert ask(mesh.pod_a, POD_B[4]) == POD_A[4]
        frames = [frame for frame in capture.frames() if frame[12:14] == b"\x08\x00" and frame[23] == 17]
    outer = {(str(ip_address(frame[26:30])), str(ip_address(frame[30:34]))) for frame in frames}
    assert outer == {("10.90.1.2", "10.90.2.2"), ("10.90.2.2", "10.90.1.2")}
    for frame in frames:
        port, flags, vni = struct.unpack_from("!H", frame, 36)[0], frame[42], int.from_bytes(frame[46:49], "big")
        assert (port, flags, vni) == (4790, 8, 4097)
        assert str(ip_address(frame[76:80])) in (POD_A[4], POD_B[4])


@families
def test_host_to_remote_pod_carries_the_tunnel_address(mesh: Topology, family: int) -> None:
    with Echo(mesh.pod_b, POD_B[family]):
        assert ask(mesh.a.space, POD_B[family]) == TUNNEL_A[family]


def test_forwarded_traffic_that_is_no_local_pod_gets_the_tunnel_address(mesh: Topology) -> None:
    """As a NodePort does: a client from outside is forwarded to a remote pod and its answer comes back this way."""
    mesh.router.ip("route", "add", "10.92.1.0/24", "via", "10.90.1.2")
    with Echo(mesh.pod_b, POD_B[4]):
        assert ask(mesh.router, POD_B[4]) == TUNNEL_A[4]


def test_mesh_device_carries_no_address(mesh: Topology) -> None:
    for device in ("clustermesh0", "clustermesh0v6"):
        (link,) = mesh.a.space.ip_json("addr", "show", "dev", device)
        assert link["addr_info"] == []


@pytest.mark.parametrize("silent", ["a", "b"])
@families
def test_tcp_segments_fit_the_tunnel_although_pods_have_the_full_mtu(mesh: Topology, family: int, silent: str) -> None:
    """With one node's clamp silenced, the other's must do: that of b on the way out, that of a on the way in."""
    getattr(mesh, silent).space.run("nft", "flush", "chain", "inet", "clustermesh", "clamp")
    with Sink(mesh.pod_b, POD_B[family]):
        answer, segment = send_tcp(mesh.pod_a, POD_B[family], 1_000_000)
    assert answer == f"1000000 {POD_A[family]}"
    device_mtu = 1450 if family == 4 else 1430
    assert segment <= device_mtu - (40 if family == 4 else 60) - 12  # 12 bytes of timestamp option


def test_disabled_overlay_leaves_routing_alone_and_still_keeps_the_source(nodes: Topology) -> None:
    nodes.a.remotes, nodes.b.remotes = [nodes.b.as_remote("Disabled")], [nodes.a.as_remote("Disabled")]
    nodes.a.reconcile()
    nodes.b.reconcile()
    marked = nodes.a.observe().marked
    assert not marked.devices
    assert not marked.routes
    assert not marked.rules
    nodes.router.ip("route", "add", "10.91.1.0/24", "via", "10.90.1.2")
    nodes.router.ip("route", "add", "10.92.1.0/24", "via", "10.90.2.2")
    with Echo(nodes.pod_b, POD_B[4]):
        assert ask(nodes.pod_a, POD_B[4]) == POD_A[4]


# ---- the guard of the tunnel port


def forge(mesh: Topology, sender: Namespace, family: int, source: str, destination: str | None = None) -> None:
    """Send node b a tunnel packet that claims to come from ``source``."""
    payload = tunnel_packet(VNI[family], MAC_B, source, destination or POD_B[family])
    send_udp(sender, "10.90.2.2" if family == 4 else "fd90:2::2", 4790, payload)


@families
def test_inner_source_must_belong_to_the_node_that_sends_it(mesh: Topology, family: int) -> None:
    foreign = {4: "10.99.1.5", 6: "fd99:1::5"}[family]
    with Inbox(mesh.pod_b, POD_B[family]) as inbox:
        forge(mesh, mesh.a.space, family, foreign)
        assert inbox.take(0.3) is None
        forge(mesh, mesh.a.space, family, POD_A[family])  # the same packet with an honest source arrives
        assert inbox.take(1) == (b"forged", POD_A[family])
    assert "counter packets 1 " in mesh.b.space.run("nft", "list", "chain", "inet", "clustermesh", "inner")
    assert mesh.b.observe().dropped == {"outer": 0, "inner": 1, "arrived": 0, "host": 0}


@families
def test_tunnel_packets_of_unknown_nodes_are_dropped(mesh: Topology, family: int) -> None:
    with Inbox(mesh.pod_b, POD_B[family]) as inbox:
        forge(mesh, mesh.router, family, POD_A[family])
        assert inbox.take(0.3) is None


def test_pods_cannot_send_tunnel_packets_under_their_nodes_address(mesh: Topology) -> None:
    with Inbox(mesh.pod_b, POD_B[4]) as inbox:
        forge(mesh, mesh.pod_a, 4, "10.91.1.77")
        assert inbox.take(0.3) is None


@families
def test_tunnel_leads_only_to_pods_of_this_node(mesh: Topology, family: int) -> None:
    host = {4: "10.90.2.2", 6: "fd90:2::2"}[family]
    with Inbox(mesh.b.space, host) as inbox:
        forge(mesh, mesh.a.space, family, POD_A[family], destination=host)
        assert inbox.take(0.3) is None
        send_udp(mesh.a.space, host, 7000, b"open")  # the port is open to everybody outside the tunnel
        assert inbox.take(1) is not None


@pytest.mark.parametrize(("kept", "only"), [(0, 4), (1, 6)])
def test_tunnel_of_a_node_with_one_family_leads_only_to_pods_of_this_node(
    nodes: Topology, kept: int, only: int
) -> None:
    """With one device its name is the whole question at the hook; with two it is what both begin with."""
    nodes.b.pod_cidrs = nodes.b.pod_cidrs[kept : kept + 1]
    nodes.b.reconcile()
    assert len(nodes.b.observe().marked.devices) == 1
    forge(nodes, nodes.a.space, only, POD_A[only], {4: "10.90.2.2", 6: "fd90:2::2"}[only])
    assert nodes.b.observe().dropped == {"outer": 0, "inner": 0, "arrived": 1, "host": 0}


def be_proxy(mesh: Topology, family: int, match: str) -> None:
    """As kube-proxy on node b: what matches goes to its pod."""
    to = {4: POD_B[4], 6: f"[{POD_B[6]}]"}[family]
    rule = f"{match} udp dport 7000 dnat to {to}:7000;"
    chain = f"chain c {{ type nat hook prerouting priority dstnat; {rule} }}"
    mesh.b.space.run("nft", f"table {IP[family]} proxy {{ {chain}\n }}")


@families
def test_tunnel_leads_to_no_other_node_and_no_service(mesh: Topology, family: int) -> None:
    """Not even to a service whose pods it may reach: which pods stand behind it is this cluster's own affair."""
    router, service = {4: ("10.90.2.1", "10.96.0.10"), 6: ("fd90:2::1", "fd96::10")}[family]
    be_proxy(mesh, family, f"{IP[family]} daddr {service}")
    with Inbox(mesh.pod_b, POD_B[family]) as pod_inbox, Inbox(mesh.router, router) as router_inbox:
        for inbox, destination in ((pod_inbox, service), (router_inbox, router)):
            forge(mesh, mesh.a.space, family, POD_A[family], destination)
            assert inbox.take(0.3) is None
        assert mesh.b.observe().dropped["arrived"] == 2
        mesh.b.space.run("nft", "flush", "chain", "inet", "clustermesh", "arrived")  # else both would get there
        for inbox, destination in ((pod_inbox, service), (router_inbox, router)):
            forge(mesh, mesh.a.space, family, POD_A[family], destination)
            assert inbox.take(1) == (b"forged", POD_A[family])


# ---- the node itself


def addresses_of_the_node(mesh: Topology, family: int) -> list[str]:
    """Those of node b that the tunnel leads to: its own, and the gateway that a CNI takes out of the pods' prefix."""
    gateway = {4: "10.92.1.1/32", 6: "fd92:1::1/128"}[family]
    mesh.b.space.ip("addr", "add", gateway, "dev", "pod0", *(["nodad"] if family == 6 else []))
    return [TUNNEL_B[family], gateway.partition("/")[0]]


@families
def test_remote_pod_opens_no_port_of_the_node(mesh: Topology, family: int) -> None:
    """Whatever listens on all addresses, as a kubelet does, is for its own cluster."""
    addresses = addresses_of_the_node(mesh, family)
    with Sink(mesh.b.space, WILDCARD[family]), Inbox(mesh.b.space, WILDCARD[family]) as inbox:
        for number, address in enumerate(addresses, 1):
            assert opens_tcp(mesh.pod_b, address)
            assert not opens_tcp(mesh.pod_a, address, 0.3)
            send_udp(mesh.pod_a, address, 7000, b"closed")
            assert inbox.take(0.3) is None
            send_udp(mesh.pod_b, address, 7000, b"open")
            assert inbox.take(1) is not None
            assert mesh.b.observe().dropped == {"outer": 0, "inner": 0, "arrived": 0, "host": 2 * number}


@pytest.mark.parametrize(("family", "address"), [(4, "10.92.1.255"), (6, TUNNEL_B[6])], ids=["broadcast", "anycast"])
def test_remote_pod_reaches_the_node_by_no_address_that_it_shares(mesh: Topology, family: int, address: str) -> None:
    """A bridge that bears the pods' prefix makes its last address a broadcast one, or its first an anycast one."""
    mesh.b.space.batch("addr add 10.92.1.1/24 brd + dev pod0\n-6 addr add fd92:1::1/64 dev pod0 nodad")
    with Inbox(mesh.b.space, WILDCARD[family]) as inbox:
        send_udp(mesh.pod_a, address, 7000, b"closed")
        assert inbox.take(0.3) is None
        assert mesh.b.observe().dropped["host"] == 1
        mesh.b.space.run("nft", "flush", "chain", "inet", "clustermesh", "begin")
        send_udp(mesh.pod_a, address, 7000, b"closed")
        assert inbox.take(1) is not None


@families
def test_remote_pod_opens_no_node_port(mesh: Topology, family: int) -> None:
    """It is judged before a proxy makes a pod of the node's address."""
    be_proxy(mesh, family, "fib daddr type local")
    with Inbox(mesh.pod_b, POD_B[family]) as inbox:
        send_udp(mesh.pod_a, TUNNEL_B[family], 7000, b"closed")
        assert inbox.take(0.3) is None
        send_udp(mesh.router, {4: "10.90.2.2", 6: "fd90:2::2"}[family], 7000, b"open")
        assert inbox.take(1) is not None
    assert mesh.b.observe().dropped["host"] == 1


@families
def test_node_answers_a_ping_through_the_tunnel(mesh: Topology, family: int) -> None:
    for address in addresses_of_the_node(mesh, family):
        assert "1 received" in mesh.pod_a.run("ping", "-c1", "-W2", address)


@families
def test_what_the_node_itself_begins_is_answered(mesh: Topology, family: int) -> None:
    with Sink(mesh.pod_b, POD_B[family]):
        assert send_tcp(mesh.a.space, POD_B[family], 100_000)[0] == f"100000 {TUNNEL_A[family]}"
    mesh.a.space.run("ping", "-c1", "-W2", POD_B[family])
    assert mesh.a.observe().dropped["host"] == 0


@families
def test_node_learns_that_a_remote_pod_refuses(mesh: Topology, family: int) -> None:
    """ICMP errors about what the node sent are no connection of their own."""
    answer = ask(mesh.a.space, POD_B[family])
    assert "refused" in answer, answer


def test_node_whose_agent_does_not_probe_is_not_open_to_probes(mesh: Topology) -> None:
    probes = mesh.b.settings.probe_port
    with mesh.b.space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as prober:
        prober.bind((TUNNEL_B[4], probes))
        prober.settimeout(0.3)
        send_udp(mesh.a.space, TUNNEL_B[4], probes, b"let in")
        assert prober.recv(100) == b"let in"
        mesh.b.settings = replace(mesh.b.settings, probe_port=0)
        mesh.b.reconcile()
        send_udp(mesh.a.space, TUNNEL_B[4], probes, b"another flow, from another port")
        with pytest.raises(TimeoutError):
            prober.recv(100)
