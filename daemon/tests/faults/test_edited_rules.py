"""F23: rules of ours that somebody edits in place, comment and all."""

from __future__ import annotations

import re

import pytest
from fault_mesh import Drive, Stream
from kernel_topology import Namespace, Topology

pytestmark = pytest.mark.faults
EDITS = {
    "guard lets all in": ("inner", "counter drop", "counter accept"),
    "guard that looks at another port": ("guard", "dport 4790", "dport 4791"),
    "exemption for another set": ("exempt", "@remote_pods4_24", "@nodes4"),
    "node that lets all in": ("host", "counter drop", "counter accept"),
    "clamp that clamps nothing": ("mss", "maxseg size > 1410", "maxseg size > 65000"),
}


def edit(space: Namespace, chain: str, old: str, new: str) -> None:
    """Replace ``old`` in the first rule of a chain that has it; comment and place stay."""
    listing = space.run("nft", "-a", "list", "chain", "inet", "clustermesh", chain)
    line = next(line for line in reversed(listing.splitlines()) if old.split()[0] in line and match(old, line))
    rule, _, handle = line.strip().partition(" # handle ")
    rule = re.sub(r"counter packets \d+ bytes \d+", "counter", rule).replace(old, new)
    space.run("nft", f"replace rule inet clustermesh {chain} handle {handle} {rule}")


def match(old: str, line: str) -> bool:
    return old in re.sub(r"counter packets \d+ bytes \d+", "counter", line)


def rules(space: Namespace) -> list[str]:
    text = space.run("nft", "-s", "list", "table", "inet", "clustermesh")
    return [line.strip() for line in text.splitlines() if 'comment "' in line]


@pytest.mark.parametrize("edited", EDITS.values(), ids=EDITS)
def test_F23_rule_edited_in_place_is_written_again(
    nodes: Topology, drive: Drive, edited: tuple[str, str, str]
) -> None:
    driver = drive(nodes.a)
    driver.settle(nodes.a.remotes)
    whole = rules(nodes.a.space)
    edit(nodes.a.space, *edited)
    assert rules(nodes.a.space) != whole
    driver.settle(nodes.a.remotes)
    assert rules(nodes.a.space) == whole


@pytest.mark.parametrize("edited", EDITS.values(), ids=EDITS)
def test_F23_rule_edited_while_no_agent_runs_is_written_again_by_the_next(
    nodes: Topology, drive: Drive, edited: tuple[str, str, str]
) -> None:
    drive(nodes.a).settle(nodes.a.remotes)
    whole = rules(nodes.a.space)
    edit(nodes.a.space, *edited)
    drive(nodes.a).settle(nodes.a.remotes)
    assert rules(nodes.a.space) == whole


def test_F23_chains_are_put_right_without_a_packet_lost(nodes: Topology, drive: Drive) -> None:
    driver = drive(nodes.a)
    driver.settle(nodes.a.remotes)
    nodes.b.reconcile()
    with Stream(nodes.pod_a, nodes.pod_b, "10.92.1.5") as stream:
        for _ in range(20):
            nodes.a.space.run("nft", "add", "chain", "inet", "clustermesh", "strange")
            driver.settle(nodes.a.remotes)
        assert stream.lost() == 0
    assert "strange" not in nodes.a.space.run("nft", "list", "table", "inet", "clustermesh")


def test_F23_rules_that_nobody_edited_are_not_written_by_the_next_agent(nodes: Topology, drive: Drive) -> None:
    drive(nodes.a).settle(nodes.a.remotes)
    before = nodes.a.space.run("nft", "-a", "list", "table", "inet", "clustermesh")
    drive(nodes.a).settle(nodes.a.remotes)
    assert nodes.a.space.run("nft", "-a", "list", "table", "inet", "clustermesh") == before
