"""Reconcile against a real kernel: restart, repair by hand-made damage, strangers, uninstall."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from pathlib import Path

import pytest
from clustermeshd.kernel import messages
from clustermeshd.kernel.dataplane import Kernel
from clustermeshd.kernel.netlink import Netlink, NetlinkError
from clustermeshd.kernel.state import Changes, Delta, Marked, Route
from clustermeshd.plan.diff import diff
from kernel_topology import Namespace, Topology
from kernel_traffic import Echo, ask

STRANGERS = """
link add other0 type vxlan id 9 dstport 4789 local 10.90.1.2 dev eth0 nolearning
link set other0 up
addr add 10.91.1.77/32 dev lo
addr add fd99::1/128 dev lo
route add 10.60.0.0/16 via 10.90.1.1 proto 80
route add 10.61.0.0/16 via 10.90.1.1 table 300
-6 route add fd61::/64 via fd90:1::1 table 300
rule add pref 97 lookup 300
-6 rule add pref 99 from fd00::/8 lookup 300
nexthop add id 7 via 10.90.1.1 dev eth0
nexthop add id 8 via 10.90.1.1 dev eth0 proto 77
rule add pref 96 lookup 301 proto 77
route add 10.62.0.0/16 nhid 7
neigh add 10.90.1.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent
"""


def add_strangers(space: Namespace) -> None:
    space.batch(STRANGERS)
    space.run("bridge", "fdb", "add", "02:00:00:00:00:01", "dev", "other0", "dst", "10.90.1.99", "self", "permanent")
    space.run("nft", "table inet other { set s { type ipv4_addr; elements = { 1.2.3.4 }; }\n }")


def test_restart_changes_nothing(mesh: Topology) -> None:
    before = mesh.a.space.dump()
    successor = mesh.a.space.call(lambda: Kernel(mesh.a.settings))
    mesh.a.kernel.close()
    mesh.a.kernel = successor
    wanted, actual = mesh.a.plan()
    assert wanted.problems == ()
    assert not diff(wanted.marked, actual.marked)
    assert mesh.a.space.dump() == before


def test_uninstall_leaves_the_node_as_it_was_found(nodes: Topology) -> None:
    add_strangers(nodes.a.space)
    before = nodes.a.space.dump()
    nodes.a.reconcile()
    during = nodes.a.space.dump()
    nodes.a.uninstall()
    assert nodes.a.space.dump() == before
    for kind, text in before.items():
        if kind != "nft":
            missing = set(text.splitlines()) - set(during[kind].splitlines())
            assert not missing, f"{kind}: changed while the mesh was up"
    assert "other" in during["nft"]


def test_uninstall_on_a_virgin_node_touches_nothing(nodes: Topology) -> None:
    add_strangers(nodes.a.space)
    before = nodes.a.space.dump()
    assert not diff(Marked(), nodes.a.observe().marked)
    nodes.a.uninstall()
    assert nodes.a.space.dump() == before


def test_tunnel_addresses_are_known_as_ours_on_kernels_without_address_protocols(mesh: Topology) -> None:
    """What such a kernel keeps of our marks is written here as it would keep it: a label, or a metric."""
    space, kept = mesh.a.space, {}
    for family, address in (("-4", "10.91.1.0/32"), ("-6", "fd91:1::/128")):
        (found,) = [
            entry
            for entry in space.ip_json(family, "addr", "show", "dev", "lo")[0]["addr_info"]
            if f"{entry['local']}/{entry['prefixlen']}" == address
        ]
        mark = ["label", found["label"]] if family == "-4" else ["metric", str(found["metric"])]
        space.ip(family, "addr", "del", address, "dev", "lo")
        space.ip(family, "addr", "add", address, "dev", "lo", *mark)
        kept[address] = mark
    wanted, actual = mesh.a.plan()
    assert wanted.marked.addresses == actual.marked.addresses
    assert len(actual.marked.addresses) == 2, kept
    mesh.a.uninstall()
    assert all(text not in space.ip("addr", "show", "dev", "lo") for text in ("10.91.1.0", "fd91:1::"))


DAMAGE = {
    "route gone": "ip route del 10.92.1.0/24 table 4097",
    "route of IPv6 gone": "ip -6 route del fd92:1::/64 table 4097",
    "route without source": "ip route replace 10.92.1.0/24 table 4097 via 10.92.1.0 dev clustermesh0 onlink proto 77",
    "surplus route": "ip route add 10.70.0.0/16 table 4097 dev clustermesh0 proto 77",
    "surplus route by metric": "ip route add 10.92.1.0/24 table 4097 metric 5 dev clustermesh0 proto 77",
    "surplus route of IPv6 by metric": "ip -6 route add fd92:1::/64 table 4097 metric 5 dev clustermesh0v6 proto 77",
    "forwarding entry gone": "bridge fdb del MAC dev clustermesh0 dst 10.90.2.2 self",
    "forwarding entry elsewhere": "bridge fdb replace MAC dev clustermesh0 dst 10.90.2.9 self permanent",
    "neighbour gone": "ip neigh del 10.92.1.0 dev clustermesh0",
    "neighbour wrong": "ip neigh replace 10.92.1.0 lladdr 02:00:00:00:00:01 dev clustermesh0 nud permanent",
    "rule gone": "ip rule del pref 98",
    "rule of IPv6 gone": "ip -6 rule del pref 98",
    "nexthops gone": "ip nexthop flush",
    "device gone": "ip link del clustermesh0",
    "device down": "ip link set clustermesh0v6 down",
    "device MTU": "ip link set clustermesh0 mtu 1300",
    "device MAC": "ip link set clustermesh0 address 02:00:00:00:00:01",
    "device alias": "ip link set clustermesh0 alias mine",
    "device learning": "ip link set clustermesh0 type vxlan learning",
    "tunnel address gone": "ip addr del 10.91.1.0/32 dev lo",
    "nft table gone": "nft delete table inet clustermesh",
    "nft chain flushed": "nft flush chain inet clustermesh exempt",
    "nft chain gone": "nft flush chain inet clustermesh clamp ; delete chain inet clustermesh clamp",
    "nft element gone": "nft delete element inet clustermesh remote_pods4_24 { 10.92.1.0 }",
    "nft element surplus": "nft add element inet clustermesh local_pods4 { 10.77.0.0/16 }",
    "nft rule surplus": "nft add rule inet clustermesh exempt accept",
    "nft chain surplus": "nft add chain inet clustermesh strange",
    "nft chain surplus and in use": "nft add chain inet clustermesh strange ; "
    "add rule inet clustermesh strange accept ; add rule inet clustermesh exempt jump strange",
    "nft chain at another hook": "nft flush chain inet clustermesh clamp ; delete chain inet clustermesh clamp ; "
    "add chain inet clustermesh clamp { type filter hook input priority 0 ; }",
    "nft chain that drops": "nft chain inet clustermesh guard { policy drop ; }",
    "nft set surplus": "nft add set inet clustermesh mine { type ipv4_addr ; }",
    "nft set of another kind": "nft flush chain inet clustermesh outer ; delete set inet clustermesh nodes4 ; "
    "add set inet clustermesh nodes4 { type ipv4_addr ; flags interval ; }",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_repaired(mesh: Topology, damage: str) -> None:
    whole = mesh.a.space.dump()
    mac = mesh.b.as_remote().spec.vtep_mac
    mesh.a.space.run(*damage.replace("MAC", mac).split())
    assert mesh.a.space.dump() != whole, "the damage did nothing"
    mesh.a.reconcile()
    wanted, actual = mesh.a.plan()
    assert not diff(wanted.marked, actual.marked)
    with Echo(mesh.pod_b, "10.92.1.5"):
        assert ask(mesh.pod_a, "10.92.1.5") == "10.91.1.5"
    with Echo(mesh.pod_b, "fd92:1::5"):
        assert ask(mesh.pod_a, "fd92:1::5") == "fd91:1::5"


def test_peer_that_leaves_takes_everything_with_it(mesh: Topology) -> None:
    mesh.a.remotes = []
    mesh.a.reconcile()
    assert mesh.a.observe().marked == Marked()


def test_moved_underlay_address_changes_the_device_in_place(mesh: Topology) -> None:
    mesh.a.space.sysctl("net.ipv4.conf.eth0.promote_secondaries=1")
    before = mesh.a.observe().around.links["clustermesh0"].index
    mesh.a.space.ip("addr", "add", "10.90.1.3/24", "dev", "eth0")
    mesh.a.addresses[0] = "10.90.1.3"
    mesh.b.remotes = [mesh.a.as_remote()]
    mesh.a.reconcile()
    mesh.b.reconcile()
    state = mesh.a.observe()
    assert state.around.links["clustermesh0"].index == before
    assert state.marked.devices["clustermesh0"].local == bytes((10, 90, 1, 3))
    mesh.a.space.ip("addr", "del", "10.90.1.2/24", "dev", "eth0")
    mesh.a.space.ip("route", "replace", "default", "via", "10.90.1.1")
    with Echo(mesh.pod_b, "10.92.1.5"):
        assert ask(mesh.pod_a, "10.92.1.5") == "10.91.1.5"


def test_lost_underlay_address_removes_nothing(mesh: Topology) -> None:
    mesh.a.space.ip("addr", "del", "10.90.1.2/24", "dev", "eth0")
    wanted, actual = mesh.a.plan()
    assert [problem.reason for problem in wanted.problems] == ["NoUnderlay"]
    assert not diff(wanted.marked, actual.marked)


def test_underlay_mtu_is_followed(mesh: Topology) -> None:
    mesh.a.space.ip("link", "set", "eth0", "mtu", "1400")
    mesh.a.reconcile()
    marked = mesh.a.observe().marked
    assert (marked.devices["clustermesh0"].mtu, marked.devices["clustermesh0v6"].mtu) == (1350, 1330)
    assert {route.mtu for route in marked.routes.values()} == {1350, 1330}


def test_other_vni_rebuilds_the_device_and_all_behind_it(mesh: Topology) -> None:
    for node in (mesh.a, mesh.b):
        node.kernel.close()
        node.settings = dataclasses.replace(node.settings, vni=5000)
        node.kernel = node.space.call(lambda node=node: Kernel(node.settings))
        node.reconcile()
        wanted, actual = node.plan()
        assert not diff(wanted.marked, actual.marked)
    with Echo(mesh.pod_b, "10.92.1.5"):
        assert ask(mesh.pod_a, "10.92.1.5") == "10.91.1.5"


# ---- strangers with our names and numbers


@pytest.mark.parametrize("kind", ["bridge", "vxlan id 9 dstport 4790 local 10.90.1.2 dev eth0"])
def test_foreign_device_with_our_name_is_refused_and_kept(nodes: Topology, kind: str) -> None:
    nodes.a.space.ip("link", "add", "clustermesh0", "type", *kind.split())
    before = nodes.a.space.ip("-d", "link", "show", "clustermesh0")
    wanted, _ = nodes.a.plan()
    assert ("ForeignDevice", "clustermesh0") in [(problem.reason, problem.object) for problem in wanted.problems]
    nodes.a.reconcile()
    assert nodes.a.space.ip("-d", "link", "show", "clustermesh0") == before
    assert list(nodes.a.observe().marked.devices) == ["clustermesh0v6"]


def test_foreign_vxlan_with_our_numbers_is_reported_and_kept(nodes: Topology) -> None:
    nodes.a.space.ip(
        "link", "add", "theirs", "type", "vxlan", "id", "4097", "dstport", "4790", "local", "10.90.1.2", "dev", "eth0"
    )
    wanted, _ = nodes.a.plan()
    (problem,) = wanted.problems
    assert (problem.reason, problem.object) == ("ForeignVXLAN", "clustermesh0")
    assert "theirs" in problem.message
    assert "settings vni, port" in problem.message
    nodes.a.reconcile()
    assert "theirs" in nodes.a.observe().around.links
    assert list(nodes.a.observe().marked.devices) == ["clustermesh0v6"]  # the other family works


def test_foreign_route_in_our_table_is_kept_and_named(nodes: Topology) -> None:
    nodes.a.space.ip("route", "add", "10.92.1.0/24", "via", "10.90.1.1", "table", "4097", "proto", "98")
    before = nodes.a.space.ip("route", "show", "table", "4097")
    wanted, _ = nodes.a.plan()
    assert {(problem.reason, problem.object) for problem in wanted.problems} == {("ForeignTable", "table 4097")}
    nodes.a.reconcile()
    assert nodes.a.space.ip("route", "show", "table", "4097") == before
    assert not nodes.a.observe().marked.rules  # nothing is led into a table that others use


def test_foreign_route_that_comes_later_is_kept_and_named_and_the_mesh_stays(mesh: Topology) -> None:
    before = mesh.a.observe().marked
    mesh.a.space.ip("route", "del", "10.92.1.0/24", "table", "4097")
    mesh.a.space.ip("route", "add", "10.92.1.0/24", "via", "10.90.1.1", "table", "4097", "proto", "98")
    wanted, _ = mesh.a.plan()
    assert [problem.reason for problem in wanted.problems if "table 4097" in problem.message] == ["ForeignRoute"]
    mesh.a.reconcile()
    assert "proto 98" in mesh.a.space.ip("route", "show", "table", "4097")
    after = mesh.a.observe().marked
    assert (after.rules, after.nexthops) == (before.rules, before.nexthops)


def test_foreign_nftables_table_of_our_name_is_kept_and_named(nodes: Topology) -> None:
    nodes.a.space.run("nft", "add table inet clustermesh; add chain inet clustermesh theirs")
    before = nodes.a.space.run("nft", "list", "ruleset")
    wanted, _ = nodes.a.plan()
    assert {problem.reason for problem in wanted.problems} == {"ForeignNftTable"}
    assert "setting nft_table" in wanted.problems[0].message
    nodes.a.reconcile()
    nodes.a.uninstall()
    assert nodes.a.space.run("nft", "list", "ruleset") == before


def test_a_rule_edited_under_its_mark_is_put_right(mesh: Topology) -> None:
    mesh.a.reconcile()  # it has seen its rules
    shown = mesh.a.space.run("nft", "-a", "list", "chain", "inet", "clustermesh", "inner")
    line = next(line for line in shown.splitlines() if "counter" in line and "drop" in line)
    mark, handle = line.split('comment "')[1].split('"')[0], line.rsplit("handle ", 1)[1]
    rule = ("inet", "clustermesh", "inner", "handle", handle, "counter", "accept", "comment", f'"{mark}"')
    mesh.a.space.run("nft", "replace", "rule", *rule)
    mesh.a.reconcile()
    assert "accept" not in mesh.a.space.run("nft", "list", "chain", "inet", "clustermesh", "inner")


def routes_by_gateway(nodes: Topology) -> None:
    """Has both reconciled, and sees that the route of a has its own gateway, and carries packets."""
    nodes.a.reconcile()
    nodes.b.reconcile()
    assert nodes.a.space.ip_json("nexthop") == []
    (route,) = nodes.a.space.ip_json("route", "show", "table", "4097")
    assert (route["dst"], route["gateway"], route["dev"]) == ("10.92.1.0/24", "10.92.1.0", "clustermesh0")
    assert not nodes.a.reconcile().written
    with Echo(nodes.pod_b, "10.92.1.5"):
        assert ask(nodes.pod_a, "10.92.1.5") == "10.91.1.5"


def test_without_nexthop_objects_each_route_has_its_own_gateway_and_metric(nodes: Topology) -> None:
    settings = dataclasses.replace(nodes.a.settings, use_nexthops=False)
    nodes.a.settings = settings
    nodes.a.kernel.close()
    nodes.a.kernel = nodes.a.space.call(lambda: Kernel(settings))
    routes_by_gateway(nodes)
    with Echo(nodes.pod_b, "fd92:1::5"):
        assert ask(nodes.pod_a, "fd92:1::5") == "fd91:1::5"
    nodes.a.uninstall()
    assert nodes.a.space.ip_json("route", "show", "table", "4097") == []


class Older(Netlink):
    """Reaches a kernel that has no nexthop objects: their messages become ones that this one does not know either."""

    def _send(self, data: bytes) -> None:
        message, start = bytearray(data), 0
        while start < len(message):
            length, kind = struct.unpack_from("=IH", message, start)
            if kind in (messages.RTM_NEWNEXTHOP, messages.RTM_DELNEXTHOP, messages.RTM_GETNEXTHOP):
                struct.pack_into("=H", message, start + 4, 1000)  # beyond RTM_MAX
            start += (length + 3) & ~3
        super()._send(bytes(message))


def test_kernel_that_refuses_nexthop_objects_gets_routes_with_gateways(
    nodes: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = nodes.a.space.dump()
    with contextlib.closing(nodes.a.space.call(Older)) as older, pytest.raises(NetlinkError, match="not supported"):
        older.dump(messages.RTM_GETNEXTHOP, messages.DUMP_NEXTHOPS)
    monkeypatch.setattr("clustermeshd.kernel.dataplane.Netlink", Older)
    nodes.a.kernel.close()
    nodes.a.kernel = nodes.a.space.call(lambda: Kernel(nodes.a.settings))
    assert not nodes.a.kernel.has_nexthops
    routes_by_gateway(nodes)
    nodes.a.uninstall()
    assert nodes.a.space.dump() == before


@pytest.mark.parametrize(
    "chosen", [{"underlay_interface": "spare*"}, {"underlay_cidr": "10.95.0.0/16,fd95::/64"}], ids=["name", "prefix"]
)
def test_settings_choose_another_underlay_and_status_explains_it(nodes: Topology, chosen: dict[str, str]) -> None:
    nodes.a.space.batch("""
        link add spare0 type veth peer name spare1
        link set spare0 up
        link set spare1 up
        addr add 10.95.0.7/24 dev spare0
    """)
    nodes.a.settings = dataclasses.replace(nodes.a.settings, **chosen)
    wanted, _ = nodes.a.plan()
    assert {(d.lower, d.local) for d in wanted.marked.devices.values()} == {("spare0", bytes((10, 95, 0, 7)))}
    assert {problem.reason for problem in wanted.problems} == {"UnderlayNotInternalIP"}
    assert "gives 10.95.0.7 on spare0" in wanted.bases["clustermesh0"].reason


def test_an_internal_ip_among_the_chosen_is_taken_and_a_choice_that_fits_nothing_is_told(nodes: Topology) -> None:
    nodes.a.space.ip("addr", "add", "10.90.0.1/32", "dev", "eth0")
    nodes.a.settings = dataclasses.replace(nodes.a.settings, underlay_interface="eth*", underlay_cidr="10.0.0.0/8")
    wanted, _ = nodes.a.plan()
    assert not wanted.problems
    assert wanted.marked.devices["clustermesh0"].local == bytes((10, 90, 1, 2))
    nodes.a.settings = dataclasses.replace(nodes.a.settings, underlay_interface="none*")
    wanted, _ = nodes.a.plan()
    assert {problem.reason for problem in wanted.problems} == {"NoUnderlay"}
    assert not wanted.marked.devices


def test_foreign_nexthop_with_our_number_is_kept(nodes: Topology) -> None:
    wanted, _ = nodes.a.plan()
    for number in wanted.owners:
        nodes.a.space.ip("nexthop", "add", "id", str(number), "via", "10.90.1.1", "dev", "eth0", "proto", "98")
    nodes.a.reconcile()
    moved, _ = nodes.a.plan()
    assert not set(moved.owners) & set(wanted.owners)
    for number in wanted.owners:
        assert "proto 98" in nodes.a.space.ip("nexthop", "get", "id", str(number))


def test_one_failing_object_stops_no_other(mesh: Topology) -> None:
    nexthops = mesh.a.observe().marked.nexthops.values()
    working = next(nexthop.id for nexthop in nexthops if len(nexthop.gateway) == 4)
    bad = Route(bytes((10, 70, 1, 0)), 24, 4242, None, 0)
    good = Route(bytes((10, 70, 2, 0)), 24, working, None, 0)
    report = mesh.a.kernel.apply(Changes(routes=Delta(put=(bad, good))))
    (failure,) = report.failures
    assert failure.object == str(bad)
    assert "Nexthop id does not exist" in failure.reason
    assert good.key in mesh.a.observe().marked.routes


def test_a_table_that_comes_and_goes_while_it_is_read_is_read_again(mesh: Topology, tmp_path: Path) -> None:
    """Another process takes the table away and puts it back all the time."""
    whole = mesh.a.observe().marked
    script = tmp_path / "again.nft"
    script.write_text(mesh.a.space.run("nft", "list", "table", "inet", "clustermesh"))
    loop = f"while [ -e {script} ]; do nft delete table inet clustermesh; nft -f {script}; done"
    other = mesh.a.space.popen("sh", "-c", loop)
    try:
        seen = [mesh.a.observe().marked.nft is None for _ in range(300)]
    finally:
        script.unlink()
        other.communicate(timeout=10)
    assert set(seen) == {True, False}, "it never came, or never went"
    mesh.a.reconcile()
    assert mesh.a.observe().marked == whole
