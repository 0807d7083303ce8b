"""F37: what a remote node, or somebody on its network, may not send through the tunnel."""

from __future__ import annotations

import re
import socket
import struct
from ipaddress import ip_address

import pytest
from clustermeshd.model.addresses import vtep_mac
from kernel_topology import Namespace, Topology
from kernel_traffic import Capture, Inbox, family_of, send_udp, tunnel_packet

pytestmark = pytest.mark.faults
families = pytest.mark.parametrize("family", [4, 6])
POD_A, POD_B = {4: "10.91.1.5", 6: "fd91:1::5"}, {4: "10.92.1.5", 6: "fd92:1::5"}
NODE_B = {4: "10.90.2.2", 6: "fd90:2::2"}
VNI = {4: 4097, 6: 4098}
MAC_B = bytes.fromhex(vtep_mac("cluster-2", "node1").replace(":", ""))
INSIDE = {4: ["10.91.1.0", "10.91.1.1", "10.91.1.255"], 6: ["fd91:1::", "fd91:1::ffff:ffff:ffff:ffff"]}
OUTSIDE = {
    4: ["10.91.0.255", "10.91.2.0", "10.90.1.2", "127.0.0.1", "0.0.0.0", "255.255.255.255", "10.92.1.5"],
    6: ["fd91:0:ffff:ffff:ffff:ffff:ffff:ffff", "fd91:1:0:1::", "fe80::1", "::1", "::", "fd92:1::5"],
}


def packet(family: int, source: str, *, vni: int = 0) -> bytes:
    return tunnel_packet(vni or VNI[family], MAC_B, source, POD_B[family])


def parts(family: int) -> tuple[bytes, bytes, bytes, bytes]:
    """VXLAN header, MAC addresses, ethertype and IP packet of an honest packet."""
    whole = packet(family, POD_A[family])
    return whole[:8], whole[8:20], whole[20:22], whole[22:]


def odd_packets(family: int) -> dict[str, bytes]:
    """Packets with an honest source that are still none of the two kinds the tunnel carries."""
    vxlan, macs, kind, inner = parts(family)
    other = 10 - family
    return {
        "ARP": vxlan + macs + b"\x08\x06" + inner,
        "VLAN tag": vxlan + macs + b"\x81\0\0\x01" + kind + inner,
        "two VLAN tags": vxlan + macs + b"\x88\xa8\0\x01\x81\0\0\x01" + kind + inner,
        "length instead of an ethertype": vxlan + macs + b"\0\x2a" + inner,
        "ethertype of the other family": vxlan + macs + parts(other)[2] + inner,
        "VNI of the other family": packet(family, POD_A[family], vni=VNI[other]),
        "VNI that nobody has": packet(family, POD_A[family], vni=4242),
        "nothing": b"",
        "half a VXLAN header": vxlan[:4],
        "VXLAN header alone": vxlan,
        "no ethertype": vxlan + macs,
        "no IP header": vxlan + macs + kind,
        "IP header without its addresses": vxlan + macs + kind + inner[: 12 if family == 4 else 8],
        "half a source address": vxlan + macs + kind + inner[: 14 if family == 4 else 16],
    }


def dropped(node: Namespace) -> int:
    """Packets that chain ``inner`` dropped."""
    found = re.findall(r"counter packets (\d+)", node.run("nft", "list", "chain", "inet", "clustermesh", "inner"))
    return int(found[-1])


@families
def test_F37_source_ends_exactly_at_the_edges_of_the_prefixes_of_its_node(mesh: Topology, family: int) -> None:
    with Inbox(mesh.pod_b, POD_B[family]) as inbox:
        for source in INSIDE[family]:
            send_udp(mesh.a.space, NODE_B[family], 4790, packet(family, source))
            assert inbox.take(1) == (b"forged", source)
        for number, source in enumerate(OUTSIDE[family], 1):
            send_udp(mesh.a.space, NODE_B[family], 4790, packet(family, source))
            assert dropped(mesh.b.space) == number, source
        assert inbox.take(0.1) is None


@families
def test_F37_tunnel_takes_whole_ip_packets_of_its_family_and_nothing_else(mesh: Topology, family: int) -> None:
    with Capture(mesh.b.space, "clustermesh0") as four, Capture(mesh.b.space, "clustermesh0v6") as six:
        for number, (name, payload) in enumerate(odd_packets(family).items(), 1):
            send_udp(mesh.a.space, NODE_B[family], 4790, payload)
            assert dropped(mesh.b.space) == number, name
        assert [frame for frame in four.frames() + six.frames() if frame[:6] == MAC_B] == []


def with_options(family: int, source: str) -> bytes:
    """The same packet with IPv4 options, or an IPv6 hop-by-hop header, before UDP."""
    whole = packet(family, source)
    head, inner = whole[:22], whole[22:]
    if family == 6:
        fixed = inner[:4] + struct.pack("!HB", len(inner) - 40 + 8, 0) + inner[7:40]
        return head + fixed + b"\x11\0\x01\x04\0\0\0\0" + inner[40:]
    header = bytearray(inner[:20] + b"\x01\x01\x01\0")
    header[0], header[2:4], header[10:12] = 0x46, struct.pack("!H", len(inner) + 4), b"\0\0"
    total = sum(struct.unpack("!12H", header))
    header[10:12] = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    return head + bytes(header) + inner[20:]


@families
def test_F37_options_before_the_payload_do_not_move_the_source_out_of_sight(mesh: Topology, family: int) -> None:
    with Inbox(mesh.pod_b, POD_B[family]) as inbox:
        send_udp(mesh.a.space, NODE_B[family], 4790, with_options(family, OUTSIDE[family][1]))
        assert dropped(mesh.b.space) == 1
        send_udp(mesh.a.space, NODE_B[family], 4790, with_options(family, POD_A[family]))
        assert inbox.take(1) == (b"forged", POD_A[family])


@families
def test_F37_tunnel_packet_in_fragments_is_judged_as_a_whole(mesh: Topology, family: int) -> None:
    """Both forged and honest come in fragments of the outer packet, so that no fragment shows all that is judged."""
    mesh.a.space.batch("link set eth0 mtu 1280")  # our own packets are cut on their way out
    text = b"x" * 1400
    with Inbox(mesh.pod_b, POD_B[family]) as inbox:
        for source, is_honest in ((OUTSIDE[family][1], False), (POD_A[family], True)):
            payload = tunnel_packet(VNI[family], MAC_B, source, POD_B[family], text)
            send_udp(mesh.a.space, NODE_B[family], 4790, payload)
            assert inbox.take(1 if is_honest else 0.2) == ((text, source) if is_honest else None)
    assert dropped(mesh.b.space) == 1


@pytest.mark.parametrize("where", ["10.90.2.255", "255.255.255.255", "224.0.0.1", "ff02::1"])
def test_F37_neighbour_cannot_reach_the_tunnel_by_broadcast_or_multicast(mesh: Topology, where: str) -> None:
    """Such packets are delivered to the tunnel's socket too, from whomever they come."""
    family = ip_address(where).version
    with Inbox(mesh.pod_b, POD_B[family]) as inbox:
        with mesh.router.call(lambda: socket.socket(family_of(where), socket.SOCK_DGRAM)) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"to2")
            sender.sendto(packet(family, POD_A[family]), (where, 4790))
        assert inbox.take(0.3) is None
        assert dropped(mesh.b.space) == 1
