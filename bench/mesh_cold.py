"""``mesh-cold``: new clusters become a full mesh (access and peering), against the documented steps by hand."""

from __future__ import annotations

import argparse
import statistics

from bench.mesh_api import add_arguments, site
from bench.report import Ratio, Table

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> list[Ratio]:
    table = Table("clusters", "playbook s", "by hand s", "ratio", "writes", "writes by hand")
    ratios = {}
    for count in options.clusters:
        ours, theirs, written, by_hand = [], [], 0, 0
        for number in range(options.rounds):
            for way in ("playbook", "by hand") if number % 2 == 0 else ("by hand", "playbook"):
                with site(count) as made:
                    if way == "playbook":
                        ours.append(made.playbook(made.names))
                        written = made.writes()
                    else:
                        theirs.append(made.by_hand(made.names))
                        by_hand = made.writes()
                    made.check(made.names)
        ratios[count] = statistics.median(ours) / statistics.median(theirs)
        table.row(count, statistics.median(ours), statistics.median(theirs), ratios[count], written, by_hand)
    return [Ratio(f"mesh-cold/{count}-clusters", ratios[count], 1.0) for count in [max(ratios)]]
