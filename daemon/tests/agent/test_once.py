"""What ``--once --dry-run`` prints: each change and each problem, for people and for programs."""

from __future__ import annotations

import io
import json

from clustermeshd.agent.once import print_json, print_table
from clustermeshd.kernel.state import Changes, Delta, FormerTable, Nexthop, NftChange, NftTable, Route, Rule
from clustermeshd.plan.overlay_claims import Problem

HOP = Nexthop(1073741825, "clustermesh0", bytes((10, 2, 0, 0)))
CHANGES = Changes(
    nexthops=Delta((HOP,), (Nexthop(1073741826, HOP.device, HOP.gateway),)),
    routes=Delta((Route(bytes((10, 2, 0, 0)), 24, HOP.id, bytes((10, 1, 0, 0)), 1450),)),
    rules=Delta(delete=(Rule(6, 98, 4097),)),
    leftovers=Delta(delete=(FormerTable("mesh9"),)),
    nft=NftChange(NftTable(frozenset(), frozenset(), (), {}), add={"nodes4": (b"abcd",)}),
)
PROBLEMS = (Problem("OverlapsLocal", "west.node1", "10.1.0.0/24 overlaps 10.1.0.0/16 of this node"),)
ROWS = [
    ("write", "nexthops", "nexthop 1073741825 via 10.2.0.0 dev clustermesh0"),
    ("remove", "nexthops", "nexthop 1073741826 via 10.2.0.0 dev clustermesh0"),
    ("write", "routes", "route 10.2.0.0/24 nhid 1073741825 src 10.1.0.0 mtu 1450"),
    ("remove", "rules", "rule v6 priority 98 table 4097"),
    ("remove", "leftovers", "nftables table mesh9"),
    ("write", "nftables", "nftables 1 elements added, 0 removed"),
]


def test_table_has_a_line_for_each_change_and_each_problem():
    out = io.StringIO()
    print_table(CHANGES, PROBLEMS, out)
    lines = out.getvalue().splitlines()
    assert [tuple(line.split(maxsplit=2)) for line in lines[:-1]] == ROWS
    assert lines[-1] == "problem OverlapsLocal west.node1: 10.1.0.0/24 overlaps 10.1.0.0/16 of this node"


def test_json_has_an_entry_for_each_change_and_each_problem():
    out = io.StringIO()
    print_json(CHANGES, PROBLEMS, out)
    found = json.loads(out.getvalue())
    assert [tuple(change[key] for key in ("verb", "kind", "object")) for change in found["changes"]] == ROWS
    assert found["problems"] == [{"reason": p.reason, "object": p.object, "message": p.message} for p in PROBLEMS]


def test_where_nothing_differs_it_says_so():
    out = io.StringIO()
    print_table(Changes(), (), out)
    assert out.getvalue() == "nothing to change\n"
    out = io.StringIO()
    print_json(Changes(), (), out)
    assert json.loads(out.getvalue()) == {"changes": [], "problems": []}
