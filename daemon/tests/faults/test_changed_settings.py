"""F24: a node that was meshed under other settings ends as one that never was, and strangers keep what is theirs."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from clustermeshd.agent.engine import Outcome
from clustermeshd.kernel import messages
from clustermeshd.kernel.libnftables import NftError
from clustermeshd.kernel.state import HostAddress, Nexthop
from clustermeshd.model.settings import Dataplane
from fault_mesh import Drive, Driver, Stream, phantom
from fault_shim import Fault, Faults, Killed
from kernel_topology import Topology
from test_agent_life import objects
from test_reconcile import add_strangers

pytestmark = pytest.mark.faults
OLD = Dataplane()
SHORT = dataclasses.replace(OLD, device="mesh")
GATEWAYS = dataclasses.replace(OLD, use_nexthops=False)
ALL = {"device": "mesh9", "table": 5000, "rule_priority": 90, "route_protocol": 190, "nft_table": "mesh9"}
CHANGED = {  # settings before, and what is another one after
    "device": (OLD, {"device": "mesh9"}),
    "device that takes the name of the other family": (SHORT, {"device": "meshv6"}),
    "device and VNI": (OLD, {"device": "mesh9", "vni": 5000}),
    "VNI": (OLD, {"vni": 5000}),
    "VNI of the other family": (OLD, {"vni": 4098}),
    "port": (OLD, {"port": 4791}),
    "nft table": (OLD, {"nft_table": "mesh9"}),
    "table": (OLD, {"table": 5000}),
    "small table": (OLD, {"table": 200}),
    "rule priority": (OLD, {"rule_priority": 90}),
    "table and rule priority": (OLD, {"table": 5000, "rule_priority": 90}),
    "protocol": (OLD, {"route_protocol": 190}),
    "protocol and table": (OLD, {"table": 5000, "route_protocol": 190}),
    "all but the tunnel's": (OLD, ALL),
    "all": (OLD, ALL | {"vni": 5000, "port": 4791}),
    "to gateways": (OLD, {"use_nexthops": False}),
    "to nexthops": (GATEWAYS, {"use_nexthops": True}),
    "table by gateways": (GATEWAYS, {"table": 5000}),
    "protocol by gateways": (GATEWAYS, {"route_protocol": 190}),
    "all by gateways": (GATEWAYS, ALL),
}
LIVE = ("nft table", "table", "rule priority", "table and rule priority", "protocol", "protocol and table")
changes = pytest.mark.parametrize(("before", "change"), CHANGED.values(), ids=CHANGED)


def mesh_under(nodes: Topology, settings: Dataplane) -> None:
    """Node a meshed by an agent with these settings, which is gone then."""
    nodes.a.settings = settings
    with contextlib.closing(Driver(nodes.a)) as driver:
        driver.settle([nodes.b.as_remote(), phantom(1)])


@changes
def test_F24_changed_setting_ends_as_on_a_fresh_node(
    nodes: Topology, drive: Drive, before: Dataplane, change: dict[str, object]
) -> None:
    remotes, after = [nodes.b.as_remote(), phantom(1)], dataclasses.replace(before, **change)
    add_strangers(nodes.a.space)
    virgin = objects(nodes.a.space)
    nodes.a.settings = after
    fresh = drive(nodes.a)
    fresh.settle(remotes)
    wanted = objects(nodes.a.space)
    marked = nodes.a.space.call(fresh.kernel.observe).marked
    fresh.uninstall()
    assert objects(nodes.a.space) == virgin
    mesh_under(nodes, before)
    nodes.a.settings = after
    driver = drive(nodes.a)
    outcome = driver.round(remotes)
    assert isinstance(outcome, Outcome)
    assert outcome.summary.problems == ()
    assert not outcome.failures
    assert objects(nodes.a.space) == wanted
    driver.settle(remotes, rounds=1)
    assert nodes.a.space.call(driver.kernel.observe).marked == marked
    assert all(isinstance(value, HostAddress) and value.is_marked for value in marked.addresses.values())
    driver.uninstall()
    assert objects(nodes.a.space) == virgin


@changes
def test_F24_uninstall_under_a_changed_setting_leaves_nothing(
    nodes: Topology, drive: Drive, before: Dataplane, change: dict[str, object]
) -> None:
    add_strangers(nodes.a.space)
    virgin = nodes.a.space.dump()
    mesh_under(nodes, before)
    nodes.a.settings = dataclasses.replace(before, **change)
    drive(nodes.a).uninstall()
    assert nodes.a.space.dump() == virgin


@pytest.mark.parametrize("name", LIVE)
def test_F24_changed_setting_of_no_tunnel_loses_no_packet(mesh: Topology, drive: Drive, name: str) -> None:
    before, change = CHANGED[name]
    mesh_under(mesh, before)
    with Stream(mesh.pod_a, mesh.pod_b, "10.92.1.5") as stream:
        mesh.a.settings = dataclasses.replace(before, **change)
        drive(mesh.a).settle([mesh.b.as_remote(), phantom(1)])
        assert stream.lost() == 0


@pytest.mark.parametrize(
    ("change", "refused"),
    [({"nft_table": "mesh9"}, "nftables"), ({"table": 5000, "rule_priority": 90}, "routes")],
    ids=["nft table", "table and rule priority"],
)
def test_F24_what_cannot_be_replaced_yet_stays_and_is_told(
    mesh: Topology, drive: Drive, change: dict[str, object], refused: str
) -> None:
    mesh_under(mesh, OLD)
    mesh.a.settings = dataclasses.replace(OLD, **change)
    driver, remotes = drive(mesh.a), [mesh.b.as_remote(), phantom(1)]
    with Stream(mesh.pod_a, mesh.pod_b, "10.92.1.5") as stream, pytest.MonkeyPatch.context() as patch:
        if refused == "nftables":
            patch.setattr(driver.kernel._table, "change", refuse)
        else:
            none = messages.delete_nexthop(Nexthop(1, "", b""))
            patch.setattr(messages, "put_route", lambda *_: none)
        outcome = driver.round(remotes)
        assert isinstance(outcome, Outcome)
        assert {failure.kind for failure in outcome.failures} == {refused, "leftovers"}
        assert not any(changes.leftovers for changes in outcome.written)
        assert stream.lost() == 0
    driver.settle(remotes)
    assert "table inet clustermesh " not in mesh.a.space.run("nft", "list", "tables") or refused == "routes"
    assert mesh.a.space.ip("route", "show", "table", "4097") == "" or refused == "nftables"


def refuse(_: object) -> None:
    raise NftError("Error: no")


def killed_at_each(nodes: Topology, drive: Drive, before: Dataplane, after: Dataplane, stride: int) -> None:
    """Killed at a call while it takes over, the next agent ends where an unharmed one does."""
    remotes = [nodes.b.as_remote(), phantom(1)]
    add_strangers(nodes.a.space)
    nodes.a.settings = after
    fresh = drive(nodes.a)
    fresh.settle(remotes)
    wanted = objects(nodes.a.space)
    fresh.uninstall()
    number, is_hit = 1, True
    while is_hit:
        mesh_under(nodes, before)
        nodes.a.settings = after
        with contextlib.closing(Driver(nodes.a)) as driver:
            Faults(driver.kernel, Fault("kill"), number)
            is_hit = False
            try:
                driver.round(remotes)
            except Killed:
                is_hit = True
            driver.begin_anew()
            driver.settle(remotes)
            assert objects(nodes.a.space) == wanted, f"killed at call {number}"
            driver.uninstall()
        number += stride
    assert number > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["device", "table and rule priority", "protocol and table", "all by gateways"])
def test_F16_killed_at_any_call_while_it_takes_over(nodes: Topology, drive: Drive, name: str) -> None:
    before, change = CHANGED[name]
    killed_at_each(nodes, drive, before, dataclasses.replace(before, **change), stride=1)


def test_F16_killed_at_some_calls_while_it_takes_over_all_settings_changed(nodes: Topology, drive: Drive) -> None:
    killed_at_each(nodes, drive, OLD, dataclasses.replace(OLD, **ALL), stride=9)
