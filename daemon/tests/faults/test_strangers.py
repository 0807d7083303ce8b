"""F24: others who use our names and numbers are named with the setting that avoids them, and never harmed."""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Iterator

import pytest
from clustermeshd.agent.engine import Outcome
from clustermeshd.plan.overlay import Change
from fault_mesh import Drive, phantom
from kernel_topology import Namespace, Topology

pytestmark = pytest.mark.faults
VXLAN = "ip link add theirs type vxlan id {} dstport 4790 local 10.90.1.2 dev eth0"
FOREIGN = {  # what is there first, what is said about it, and the setting that avoids it
    "device": ("ip link add clustermesh0 type bridge", "ForeignDevice", "device"),
    "device of IPv6": ("ip link add clustermesh0v6 type bridge", "ForeignDevice", "device"),
    "VNI": (VXLAN.format(4097), "ForeignVXLAN", "vni"),
    "VNI of IPv6": (VXLAN.format(4098), "ForeignVXLAN", "vni"),
    "table": ("ip route add 10.50.0.0/16 via 10.90.1.1 table 4097", "ForeignTable", "table"),
    "table by default route": ("ip route add default via 10.90.1.1 table 4097", "ForeignTable", "table"),
    "table of IPv6": ("ip -6 route add fd50::/64 via fd90:1::1 table 4097", "ForeignTable", "table"),
    "nft table": ("nft add table inet clustermesh ; add chain inet clustermesh x", "ForeignNftTable", "nft_table"),
}
HARMLESS = {  # like ours in one respect, and no reason to refuse anything
    "rule of our priority": "ip rule add pref 98 from 10.9.9.9 lookup main",
    "rule to our table": "ip rule add pref 60 from 10.9.9.9 lookup 4097",
    "nexthop of our protocol": "ip nexthop add id 5 via 10.90.1.1 dev eth0 proto 77",
    "route of our protocol": "ip route add 10.51.0.0/16 via 10.90.1.1 proto 77",
    "VXLAN of another VNI on our port": "ip link add theirs type vxlan id 77 dstport 4790 local 10.90.1.2 dev eth0",
    "nft table of our name elsewhere": "nft add table ip clustermesh",
    "address of our range": "ip addr add 10.91.1.0/32 dev lo",
}


def lines(space: Namespace) -> dict[str, set[str]]:
    return {kind: set(text.splitlines()) for kind, text in space.dump().items()}


@pytest.mark.parametrize(("command", "reason", "setting"), FOREIGN.values(), ids=FOREIGN)
def test_F24_foreign_object_is_refused_by_name_with_the_setting_that_avoids_it(
    nodes: Topology, drive: Drive, command: str, reason: str, setting: str
) -> None:
    nodes.a.space.run(*command.split())
    before = lines(nodes.a.space)
    driver = drive(nodes.a)
    outcome = driver.round([nodes.b.as_remote()])
    assert isinstance(outcome, Outcome)
    (problem,) = {problem for problem in outcome.summary.problems if problem.reason == reason}
    assert setting in problem.message
    assert not outcome.failures
    during = lines(nodes.a.space)
    driver.uninstall()
    for kind, found in before.items():
        missing = found - during[kind]
        assert kind == "nft" or not missing, f"{kind}: {missing}"
    assert lines(nodes.a.space) == before


def test_F24_each_setting_avoids_the_stranger_it_is_named_for(nodes: Topology, drive: Drive) -> None:
    for command, _, _ in (FOREIGN[kind] for kind in ("device", "VNI of IPv6", "table", "nft table")):
        nodes.a.space.run(*command.split())
    nodes.a.settings = dataclasses.replace(nodes.a.settings, device="mesh9", vni=5000, table=5000, nft_table="mesh9")
    outcome = drive(nodes.a).round([nodes.b.as_remote()])
    assert isinstance(outcome, Outcome)
    assert outcome.summary.problems == ()
    assert not outcome.failures
    assert "mesh9v6" in nodes.a.space.ip("link")


@pytest.mark.parametrize("command", HARMLESS.values(), ids=HARMLESS)
def test_F24_what_only_looks_like_ours_is_left_alone_and_hinders_nothing(
    nodes: Topology, drive: Drive, command: str
) -> None:
    nodes.a.space.run(*command.split())
    before = lines(nodes.a.space)
    driver = drive(nodes.a)
    driver.settle([nodes.b.as_remote()])
    during = lines(nodes.a.space)
    driver.uninstall()
    for kind, found in before.items():
        assert not found - during[kind], kind
    assert lines(nodes.a.space) == before


@pytest.fixture
def held_port(nodes: Topology) -> Iterator[socket.socket]:
    """UDP 4790 of IPv4 on node a, in another program's hand until it is closed."""
    with nodes.a.space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as theirs:
        theirs.bind(("0.0.0.0", 4790))
        yield theirs


def test_F24_port_that_a_program_holds_is_named_and_taken_once_it_is_free(
    nodes: Topology, drive: Drive, held_port: socket.socket
) -> None:
    driver = drive(nodes.a)
    outcome = driver.round([nodes.b.as_remote()])
    assert isinstance(outcome, Outcome)
    (failure,) = {failure for failure in outcome.failures if failure.kind == "devices"}
    assert "port 4790" in failure.object
    assert "EADDRINUSE" in failure.reason
    assert "setting port" in failure.reason
    (peer,) = outcome.summary.peers
    assert (peer.wanted_nodes, peer.programmed_nodes, peer.failed_nodes) == (1, 0, 1)
    assert "setting port" in peer.failed_reason
    held_port.close()
    driver.settle([nodes.b.as_remote()])


def test_F24_what_cannot_be_written_is_neither_logged_nor_counted_as_written(
    nodes: Topology, drive: Drive, held_port: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    driver, remotes = drive(nodes.a), [nodes.b.as_remote()]
    caplog.set_level(logging.INFO)
    first = driver.round(remotes)
    assert isinstance(first, Outcome)
    failed = {failure.object for failure in first.failures}
    texts = {str(value) for changes in first.written for _, delta in changes.deltas() for value in delta.put}
    assert failed
    assert not failed & texts
    assert "device clustermesh0v6" in caplog.text  # the other family works
    caplog.clear()
    for _ in range(3):
        again = driver.round(remotes)
        assert isinstance(again, Outcome)
        assert {failure.object for failure in again.failures} == failed
        assert again.written == ()
    assert not caplog.records
    held_port.close()
    driver.settle(remotes)


def test_F24_quick_round_does_not_hide_what_a_whole_one_could_not_write(
    nodes: Topology, drive: Drive, held_port: socket.socket
) -> None:
    driver, b, other = drive(nodes.a), nodes.b.as_remote(), phantom(1)
    driver.round([b, other])
    assert driver.quick([Change(other, None)]) is None
    held_port.close()
    driver.settle([b, other])
    assert driver.quick([Change(other, None)]) is not None
