"""F13 on this node: a real agent follows its underlay through all that can happen to it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from agent_process import Agent, until
from agent_site import Site
from clustermeshd.kernel.state import Marked
from fault_mesh import Stream
from kernel_topology import Namespace

pytestmark = [pytest.mark.faults, pytest.mark.slow]
ROUTES = """
    route replace default via 10.90.1.1
    -6 route replace default via fd90:1::1"""


def marked(site: Site) -> Marked:
    return site.nodes.a.observe().marked


def indexes(space: Namespace) -> dict[str, int]:
    return {link["ifname"]: link["ifindex"] for link in space.ip_json("link")}


FLAP = "link set eth0 down\nlink set eth0 up\n-6 addr add fd90:1::2/64 dev eth0 nodad" + ROUTES
RENAME = (
    """
    link set eth0 down
    link set eth0 name wan0
    link set wan0 up
    -6 addr add fd90:1::2/64 dev wan0 nodad"""
    + ROUTES
)
MOVE = (
    """
    addr del 10.90.1.2/24 dev eth0
    addr add 10.90.1.2/24 dev eth1
    -6 addr del fd90:1::2/64 dev eth0
    -6 addr add fd90:1::2/64 dev eth1 nodad"""
    + ROUTES
)


def add_second_interface(site: Site) -> None:
    router = site.nodes.router
    site.nodes.a.space.batch(f"""
        link add eth1 type veth peer name to1b netns {router.name}
        link set eth1 up""")
    router.ip("link", "set", "to1b", "up")


@pytest.mark.parametrize(("change", "lower"), [(FLAP, "eth0"), (RENAME, "wan0")], ids=["flap", "rename"])
def test_F13_interface_that_flaps_or_is_renamed_is_followed(
    site: Site, agent: Agent, stream: Stream, change: str, lower: str
) -> None:
    space = site.nodes.a.space
    before, found = marked(site), indexes(space)
    space.batch(change)
    stream.until_resumed(5)
    until(lambda: {device.lower for device in marked(site).devices.values()} == {lower}, 5, lambda: agent.log)
    until(lambda: marked(site).routes == before.routes, 5, lambda: agent.log)
    assert marked(site).fdb == before.fdb
    ours = {"clustermesh0", "clustermesh0v6"}
    assert {name: indexes(space)[name] for name in ours} == {name: found[name] for name in ours}


def test_F13_address_that_moves_to_another_interface_is_followed_with_its_mtu(
    site: Site, agent: Agent, stream: Stream
) -> None:
    add_second_interface(site)
    space, router = site.nodes.a.space, site.nodes.router
    before, found = marked(site), indexes(space)
    router.batch("""
        addr del 10.90.1.1/24 dev to1
        addr add 10.90.1.1/24 dev to1b
        -6 addr del fd90:1::1/64 dev to1
        -6 addr add fd90:1::1/64 dev to1b nodad""")
    space.batch("link set eth1 mtu 1480" + MOVE)
    stream.until_resumed(5)
    until(lambda: {device.lower for device in marked(site).devices.values()} == {"eth1"}, 5, lambda: agent.log)
    until(lambda: {route.mtu for route in marked(site).routes.values()} == {1430, 1410}, 5, lambda: agent.log)
    assert marked(site).fdb == before.fdb
    assert marked(site).nexthops == before.nexthops
    assert indexes(space)["clustermesh0"] == found["clustermesh0"]


def test_F13_internal_ip_that_becomes_another_one_is_followed_in_place(
    site: Site, agent: Agent, stream: Stream
) -> None:
    space = site.nodes.a.space
    space.batch("""
        addr add 10.90.1.7/24 dev eth0
        -6 addr add fd90:1::7/64 dev eth0 nodad""")
    before, found = marked(site), indexes(space)
    site.nodes.a.addresses = ["10.90.1.7", "fd90:1::7"]
    site.write_node()
    wanted = {ip_address(address).packed for address in site.nodes.a.addresses}
    until(lambda: {device.local for device in marked(site).devices.values()} == wanted, 5, lambda: agent.log)
    site.nodes.b.remotes = [site.nodes.a.as_remote()]
    site.nodes.b.reconcile()
    stream.until_resumed(5)
    after = marked(site)
    assert (after.routes, after.nexthops, after.neighbours, after.fdb) == (
        *(before.routes, before.nexthops, before.neighbours, before.fdb),
    )
    assert {name: indexes(space)[name] for name in before.devices} == {name: found[name] for name in before.devices}
    told = {"10.90.1.7", "fd90:1::7"}
    until(lambda: {device["underlayAddress"] for device in site.mesh_node()["status"]["devices"]} == told, 10)


def test_F13_interface_without_carrier_or_with_another_mtu_costs_no_object(
    site: Site, agent: Agent, stream: Stream
) -> None:
    before = marked(site)
    site.nodes.router.ip("link", "set", "to1", "down")
    until(lambda: "NO-CARRIER" in site.nodes.a.space.ip("link", "show", "eth0"), 5)
    assert marked(site).routes.keys() == before.routes.keys()
    site.nodes.router.batch("""
        link set to1 up
        addr add fd90:1::1/64 dev to1 nodad""")
    stream.until_resumed(5)
    site.nodes.a.space.ip("link", "set", "eth0", "mtu", "1400")
    until(lambda: {route.mtu for route in marked(site).routes.values()} == {1350, 1330}, 2, lambda: agent.log)
    site.nodes.a.space.ip("link", "set", "eth0", "mtu", "1500")
    until(lambda: marked(site) == before, 2, lambda: agent.log)
