"""F18: uninstall leaves the node as it was found, whatever had happened to our objects until then."""

from __future__ import annotations

import contextlib

import pytest
from fault_mesh import Drive, Driver, phantom
from fault_shim import Fault, Faults, Killed
from kernel_topology import Topology
from test_reconcile import DAMAGE, add_strangers

pytestmark = pytest.mark.faults
MORE_DAMAGE = {
    "route by hand on our device": "ip route add 10.77.0.0/16 dev clustermesh0",
    "address on our device": "ip addr add 10.78.0.1/24 dev clustermesh0",
    "nft rules flushed": "nft flush table inet clustermesh",
}


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, set[str]]:
    """Lines by kind that only one of two dumps has."""
    pairs = {kind: (set(text.splitlines()), set(after[kind].splitlines())) for kind, text in before.items()}
    return {kind: old ^ new for kind, (old, new) in pairs.items() if old != new}


@pytest.mark.slow
def test_F18_uninstall_after_any_damage_leaves_nothing_of_ours(nodes: Topology, drive: Drive) -> None:
    add_strangers(nodes.a.space)
    before = nodes.a.space.dump()
    remotes = [nodes.b.as_remote(), phantom(1)]
    driver = drive(nodes.a)
    for name, damage in (DAMAGE | MORE_DAMAGE).items():
        driver.settle(remotes)
        nodes.a.space.run(*damage.replace("MAC", nodes.b.as_remote().spec.vtep_mac).split())
        driver.uninstall()
        left = differences(before, nodes.a.space.dump())
        if damage == "ip nexthop flush":  # which took a stranger's too
            left = {kind: lines for kind, lines in left.items() if kind not in ("nexthops", "routes4")}
            nodes.a.space.batch("""
                nexthop add id 7 via 10.90.1.1 dev eth0
                nexthop add id 8 via 10.90.1.1 dev eth0 proto 77
                route add 10.62.0.0/16 nhid 7""")
        assert not left, f"{name}: {left}"


def kill_each(nodes: Topology, stride: int) -> None:
    """Install and uninstall once per call, killed at that call; the next uninstall must leave the node as it was."""
    add_strangers(nodes.a.space)
    before = nodes.a.space.dump()
    remotes = [nodes.b.as_remote(), phantom(1)]
    number, is_hit = 1, True
    while is_hit:
        with contextlib.closing(Driver(nodes.a)) as driver:
            faults = Faults(driver.kernel, Fault("kill"), number)
            is_hit = False
            try:
                driver.settle(remotes)
                driver.uninstall()
            except Killed:
                is_hit = True
            driver.begin_anew()
            driver.uninstall()
        left = differences(before, nodes.a.space.dump())
        assert not left, f"killed at call {number} of {faults.calls}: {left}"
        number += stride
    assert number > 60


@pytest.mark.slow
def test_F18_uninstall_after_a_kill_at_any_call_of_install_and_uninstall(nodes: Topology) -> None:
    kill_each(nodes, stride=1)


def test_F18_uninstall_of_what_is_half_installed_leaves_nothing(nodes: Topology) -> None:
    kill_each(nodes, stride=41)


def test_F18_uninstall_after_the_underlay_changed_leaves_nothing(nodes: Topology, drive: Drive) -> None:
    """MTU, address and name of the underlay at removal are not those at installation."""
    driver, space = drive(nodes.a), nodes.a.space
    driver.settle([nodes.b.as_remote()])
    changes = """
        link set eth0 mtu 9000
        addr add 10.90.1.7/24 dev eth0
        link set eth0 down
        link set eth0 name wan0
        link set wan0 up
        route replace default via 10.90.1.1
        -6 addr add fd90:1::2/64 dev wan0 nodad
        -6 route replace default via fd90:1::1"""
    space.batch(changes)
    during = space.dump()
    driver.uninstall()
    after = space.dump()
    for kind, text in after.items():
        assert not set(text.splitlines()) - set(during[kind].splitlines()), f"{kind}: uninstall made something"
        for ours in ("clustermesh", "4097", "proto 77", "lo:mesh"):
            assert ours not in text, kind
