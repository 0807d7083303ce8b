"""F23: rules of ours that somebody edits in place, comment and all."""

from __future__ import annotations

import re

import pytest
from fault_mesh import Drive
from kernel_topology import Namespace, Topology

pytestmark = pytest.mark.faults
EDITS = {
    "guard lets all in": ("inner", "counter drop", "counter accept"),
    "guard that looks at another port": ("guard", "dport 4790", "dport 4791"),
    "exemption for another set": ("exempt", "ip daddr @remote_pods4", "ip daddr @local_pods4"),
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
