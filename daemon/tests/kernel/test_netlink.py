"""The codec against the kernel's own tools, in bulk, and when things go wrong."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
from clustermeshd.kernel import messages
from clustermeshd.kernel.dataplane import Kernel
from clustermeshd.kernel.libnftables import Nft, NftError
from clustermeshd.kernel.messages import RouteMark
from clustermeshd.kernel.monitor import Monitor
from clustermeshd.kernel.netlink import Netlink, NetlinkError, RepliesLost, Request, attribute, attributes
from clustermeshd.kernel.state import (
    Changes,
    Delta,
    Device,
    FdbEntry,
    Neighbour,
    Nexthop,
    NftChange,
    Route,
    address_text,
    mac_text,
)
from clustermeshd.model.settings import Dataplane
from hypothesis import given
from hypothesis import strategies as st
from kernel_topology import Namespace, Topology
from kernel_traffic import Echo, ask

MAC = bytes.fromhex("0e0000000001")


@pytest.fixture
def node(spaces: Callable[[str], Namespace]) -> Namespace:
    """A node with an underlay and the two mesh devices, made with ip."""
    space = spaces("n")
    space.batch("""
        link add eth0 type veth peer name eth1
        link set eth0 up
        link set eth1 up
        addr add 10.90.1.2/24 dev eth0
        link add clustermesh0 type vxlan id 4097 dstport 4790 local 10.90.1.2 dev eth0 nolearning
        link add clustermesh0v6 type vxlan id 4098 dstport 4790 local 10.90.1.2 dev eth0 nolearning
        link set clustermesh0 alias clustermesh.io
        link set clustermesh0v6 alias clustermesh.io
        link set clustermesh0 up
        link set clustermesh0v6 up
    """)
    return space


@pytest.fixture
def kernel(node: Namespace) -> Iterator[Kernel]:
    made = node.call(lambda: Kernel(Dataplane()))
    yield made
    made.close()


def bulk(count: int) -> Changes:
    """Objects of ``count`` remote nodes, every third of IPv6."""
    nexthops, fdb, neighbours, routes = [], [], [], []
    for n in range(count):
        number, mac = (1 << 30) + n, b"\x0e\0\0" + n.to_bytes(3, "big")
        if n % 3:
            device, prefix, length = "clustermesh0", bytes((20, n >> 8, n & 255, 0)), 24
        else:
            device, prefix, length = "clustermesh0v6", b"\xfd\x20" + n.to_bytes(6, "big") + bytes(8), 64
        nexthops.append(Nexthop(number, device, prefix))
        fdb.append(FdbEntry(device, mac, bytes((10, 90, 2, n % 250 + 1))))
        neighbours.append(Neighbour(device, prefix, mac))
        routes.append(Route(prefix, length, number, None, 1400))
    return Changes(
        nexthops=Delta(tuple(nexthops)),
        fdb=Delta(tuple(fdb)),
        neighbours=Delta(tuple(neighbours)),
        routes=Delta(tuple(routes)),
    )


def test_what_we_write_is_what_ip_and_bridge_print_and_what_we_read_back(node: Namespace, kernel: Kernel) -> None:
    changes = bulk(1000)
    report = kernel.apply(changes)
    assert report.failures == ()
    assert report.written == 4000
    marked = kernel.observe().marked

    routes = node.ip_json("-4", "route", "show", "table", "4097") + node.ip_json(
        "-6", "route", "show", "table", "4097"
    )
    assert {(r["dst"], r["nhid"], r["metrics"][0]["mtu"]) for r in routes} == {
        (f"{address_text(r.prefix)}/{r.length}", r.nexthop, r.mtu) for r in marked.routes.values()
    }
    printed = {(n["id"], n["dev"], n["gateway"]) for n in node.ip_json("nexthop")}
    assert printed == {(n.id, n.device, address_text(n.gateway)) for n in marked.nexthops.values()}
    printed = {(n["dev"], n["dst"], n["lladdr"]) for n in node.ip_json("neigh", "show", "nud", "permanent")}
    assert printed == {(n.device, address_text(n.address), mac_text(n.mac)) for n in marked.neighbours.values()}
    entries = node.bridge_json("fdb", "show")
    printed = {(e["ifname"], e["mac"], e["dst"]) for e in entries if "dst" in e}
    assert printed == {(e.device, mac_text(e.mac), address_text(e.destination)) for e in marked.fdb.values()}

    for kind in ("nexthops", "fdb", "neighbours", "routes"):
        assert set(getattr(marked, kind).values()) == set(getattr(changes, kind).put)
    assert [len(getattr(marked, kind)) for kind in ("nexthops", "fdb", "neighbours", "routes")] == [1000] * 4

    undo = {kind: Delta((), getattr(changes, kind).put) for kind in ("nexthops", "fdb", "neighbours", "routes")}
    assert kernel.apply(Changes(**undo)).failures == ()
    empty = kernel.observe().marked
    assert [len(getattr(empty, kind)) for kind in undo] == [0, 0, 0, 0]


def test_devices_read_as_ip_prints_them(node: Namespace, kernel: Kernel) -> None:
    for link in node.ip_json("link", "show", "type", "vxlan"):
        data = link["linkinfo"]["info_data"]
        device = kernel.observe().marked.devices[link["ifname"]]
        assert isinstance(device, Device)
        assert (device.vni, device.port, device.lower, address_text(device.local), device.learns) == (
            data["id"], data["port"], data["link"], data["local"], data["learning"],
        )  # fmt: skip
        assert (mac_text(device.mac), device.mtu, device.is_up) == (link["address"], link["mtu"], True)


def test_interface_whose_name_is_no_text_is_read_and_told_like_others(nodes: Topology) -> None:
    """The kernel takes nearly any bytes; the underlay may bear such a name as well."""
    space = nodes.a.space
    for number, name in (("77", b"v\xfe"), ("78", b"v\xff")):
        space.ip("link", "add", os.fsdecode(name), "type", "vxlan", "id", number, "dstport", "4791", "dev", "eth0")
    space.ip("link", "set", "eth0", "down")
    space.ip("link", "set", "eth0", "name", os.fsdecode(b"wan\xff"))
    space.ip("link", "set", os.fsdecode(b"wan\xff"), "up")
    space.ip("route", "replace", "default", "via", "10.90.1.1")
    space.ip("-6", "addr", "add", "fd90:1::2/64", "dev", os.fsdecode(b"wan\xff"), "nodad")
    around = nodes.a.observe().around
    assert {device.name for device in around.rival_vxlans} == {"v\\xfe", "v\\xff"}
    nodes.a.reconcile()
    nodes.b.reconcile()
    device = nodes.a.observe().marked.devices["clustermesh0"]
    assert msgspec.json.encode(device.lower) == rb'"wan\\xff"'
    with Echo(nodes.pod_b, "10.92.1.5"):
        assert ask(nodes.pod_a, "10.92.1.5") == "10.91.1.5"


def test_every_error_of_a_batch_is_told_with_its_object_and_reason(node: Namespace, kernel: Kernel) -> None:
    good = bulk(600)
    bad = tuple(Route(bytes((30, 0, n % 256, n // 256)), 32, 99, None, 0) for n in range(600))
    mixed = tuple(route for pair in zip(good.routes.put, bad, strict=True) for route in pair)
    report = kernel.apply(Changes(nexthops=good.nexthops, routes=Delta(mixed)))
    assert [failure.object for failure in report.failures] == [str(route) for route in bad]
    assert {failure.reason for failure in report.failures} == {"EINVAL: Nexthop id does not exist"}
    assert len(kernel.observe().marked.routes) == 600


def test_removing_what_is_gone_is_no_failure(kernel: Kernel) -> None:
    changes = bulk(9)
    undo = {kind: Delta((), getattr(changes, kind).put) for kind in ("nexthops", "fdb", "neighbours", "routes")}
    assert kernel.apply(Changes(**undo)).failures == ()


def test_missing_device_fails_its_objects_and_no_others(kernel: Kernel) -> None:
    changes = bulk(6)
    lost = FdbEntry("gone0", MAC, bytes((10, 0, 0, 9)))
    report = kernel.apply(Changes(fdb=Delta((lost, *changes.fdb.put))))
    assert [failure.object for failure in report.failures] == [str(lost)]
    assert len(kernel.observe().marked.fdb) == 6


def test_overrun_socket_says_replies_lost_and_works_again(node: Namespace) -> None:
    netlink = node.call(Netlink)
    netlink.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    mark = RouteMark(4097, 77)
    bad = [(messages.put_route(Route(bytes((30, 0, n, 0)), 24, 99, None, 0), mark), n) for n in range(256)]
    with pytest.raises(RepliesLost):
        netlink.batch(bad)
    netlink.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    assert len(netlink.batch(bad)) == 256
    netlink.close()


def test_a_batch_of_failures_fits_the_receive_buffer_an_unprivileged_socket_has(node: Namespace) -> None:
    netlink = node.call(Netlink)
    netlink.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 212992 // 2)  # the kernel doubles it
    mark = RouteMark(4097, 77)
    bad = [(messages.put_route(Route(bytes((30, n >> 8, n & 255, 0)), 24, 99, None, 0), mark), n) for n in range(5000)]
    assert [rejected.subject for rejected in netlink.batch(bad)] == list(range(5000))
    netlink.close()


def test_dump_of_nothing_is_empty_and_a_wrong_request_is_an_error(node: Namespace) -> None:
    netlink = node.call(Netlink)
    assert netlink.dump(messages.RTM_GETNEXTHOP, messages.DUMP_NEXTHOPS) == []
    with pytest.raises(NetlinkError, match="EINVAL"):
        netlink.dump(messages.RTM_GETNEXTHOP, b"\xff" * 8)
    with pytest.raises(NetlinkError, match=r"EINVAL: .+"):
        netlink.request(Request(messages.RTM_NEWNEXTHOP, 0x500, messages.DUMP_NEXTHOPS))
    netlink.close()


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_read_back_as_written(values: dict[int, bytes]) -> None:
    assert attributes(b"".join(attribute(kind, value) for kind, value in values.items())) == values


@given(st.binary(max_size=64))
def test_attributes_of_rubbish_do_not_hang_or_raise(data: bytes) -> None:
    assert all(isinstance(value, bytes) for value in attributes(data).values())


# ---- nftables


def test_nft_transaction_is_all_or_nothing_and_says_why(node: Namespace) -> None:
    nft = node.call(Nft)
    with pytest.raises(NftError, match="No such file"):
        nft.run("add table inet one\nadd rule inet one nowhere accept\n")
    assert node.run("nft", "list", "tables") == ""
    nft.run("add table inet one\n")
    assert node.run("nft", "list", "tables").strip() == "table inet one"
    nft.close()


# ---- monitor


@contextlib.contextmanager
def monitoring(mesh: Topology, settings: Dataplane) -> Iterator[Monitor]:
    """A monitor of node a that knows its addresses and devices, as after a round."""
    local, around = mesh.a.local, mesh.a.observe().around.links
    with contextlib.closing(mesh.a.space.call(lambda: Monitor(settings, mesh.a.kernel.ports))) as made:
        made.expect(address.packed for address in (*local.addresses, *local.tunnel_addresses))
        made.watch({name: around[name].index for name in ("eth0", "clustermesh0", "clustermesh0v6")})
        made.drain()
        yield made


@pytest.fixture
def monitor(mesh: Topology) -> Iterator[Monitor]:
    with monitoring(mesh, mesh.a.settings) as made:
        yield made


@pytest.mark.parametrize(
    "command",
    [
        "ip route del 10.92.1.0/24 table 4097",
        "ip -6 route del fd92:1::/64 table 4097",
        "ip neigh del 10.92.1.0 dev clustermesh0",
        "ip rule del pref 98",
        "ip -6 rule del pref 98",
        "ip nexthop flush",
        "ip nexthop add id 2000000000 via 10.92.1.0 dev clustermesh0 onlink proto 77",
        "ip link set clustermesh0 down",
        "ip link set eth0 mtu 1400",
        "ip addr add 10.90.1.9/24 dev eth0",
        "ip addr add 10.90.1.2/32 dev pod0",
        "ip addr add fd91:1::/128 dev pod0",
        "ip addr del 10.91.1.0/32 dev lo",
        "nft flush chain inet clustermesh clamp",
        "nft delete element inet clustermesh local_pods4 { 10.91.1.0/24 }",
    ],
)
def test_monitor_tells_of_changes_that_concern_us(mesh: Topology, monitor: Monitor, command: str) -> None:
    assert not monitor.drain()
    mesh.a.space.run(*command.split())
    assert monitor.drain()


def test_a_deaf_monitor_hears_nothing_and_then_hears_again(mesh: Topology, monitor: Monitor) -> None:
    damage = ("ip route del 10.92.1.0/24 table 4097", "nft flush chain inet clustermesh clamp")
    with monitor.deaf():
        for command in damage:
            mesh.a.space.run(*command.split())
        assert not monitor.drain()
    assert not monitor.drain()
    mesh.a.reconcile()
    for command in damage:
        monitor.drain()
        mesh.a.space.run(*command.split())
        assert monitor.drain(), command


def test_monitor_ignores_pods_that_come_and_go_and_our_own_writes(mesh: Topology, monitor: Monitor) -> None:
    mesh.a.space.batch("""
        link add veth9 type veth peer name veth8
        link set veth9 up
        link set veth8 up
        addr add 10.91.1.1/32 dev veth9
        -6 addr add fd91:1::1/128 dev veth9
        route add 10.91.1.9 dev veth9
        route add 10.80.0.0/16 via 10.90.1.1
        neigh add 10.91.1.9 lladdr 02:00:00:00:00:09 dev veth9
        rule add pref 50 lookup 300
    """)
    mesh.a.space.run("nft", "table inet other { chain c { type filter hook input priority 0; }\n }")
    deadline = time.monotonic() + 2
    while "fe80::" not in mesh.a.space.ip("-6", "addr", "show", "dev", "veth9"):  # once its peer is up
        assert time.monotonic() < deadline
    assert not monitor.drain()
    mesh.a.space.ip("link", "del", "veth9")
    assert not monitor.drain()
    route = next(iter(mesh.a.observe().marked.routes.values()))
    assert mesh.a.kernel.apply(Changes(routes=Delta((), (route,)))).failures == ()
    assert mesh.a.kernel.apply(Changes(routes=Delta((route,)))).failures == ()
    table = mesh.a.observe().marked.nft
    elements = {"remote_pods4_24": table.elements["remote_pods4_24"]}
    assert mesh.a.kernel.apply(Changes(nft=NftChange(table, remove=elements))).failures == ()
    assert mesh.a.kernel.apply(Changes(nft=NftChange(table, add=elements))).failures == ()
    for listener in monitor.sockets:
        with pytest.raises(BlockingIOError):  # nobody wakes for it
            listener.receive()
    assert not monitor.drain()


@pytest.mark.parametrize(
    ("settings", "addresses"),
    [
        (
            Dataplane(underlay_cidr="10.8.0.0/16,fd08::/32"),
            {"10.8.1.1/24": True, "fd08::1/64": True, "10.9.1.1/24": False},
        ),
        (Dataplane(underlay_interface="bond*"), {"10.8.1.1/24": True, "169.254.1.2/32": False, "fe80::9/64": False}),
    ],
    ids=["cidr", "interface"],
)
def test_monitor_tells_of_addresses_that_settings_may_choose(
    mesh: Topology, settings: Dataplane, addresses: dict[str, bool]
) -> None:
    with monitoring(mesh, settings) as monitor:
        for address, concerns in addresses.items():
            once = ("nodad",) if ":" in address else ()  # or it is told again a second later
            mesh.a.space.ip("addr", "add", address, "dev", "pod0", *once)
            assert monitor.drain() is concerns, address


def test_monitor_that_overran_counts_as_a_change_and_goes_on(mesh: Topology, monitor: Monitor) -> None:
    monitor.sockets[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    mesh.a.space.batch("\n".join(f"route add 10.80.{n}.0/24 via 10.90.1.1" for n in range(200)))
    assert monitor.drain()
    assert not monitor.drain()
    mesh.a.space.run("ip", "rule", "del", "pref", "98")
    assert monitor.drain()
