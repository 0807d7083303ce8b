"""``mesh-add``: one more cluster joins a mesh (--limit), against the documented steps by hand for that one."""

from __future__ import annotations

import argparse

from bench.mesh_api import add_arguments, site
from bench.report import Ratio, Table

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> list[Ratio]:
    """N clusters are meshed, one joins: at most 8 N + 10 writes."""
    table = Table("clusters", "playbook s", "by hand s", "ratio", "writes", "at most", "writes by hand")
    ratios = []
    for count in options.clusters:
        for _ in range(options.rounds):
            figures = {}
            for way in ("playbook", "by_hand"):
                with site(count + 1) as made:
                    *before, added = made.names
                    run_of = getattr(made, way)
                    run_of(before)
                    known = made.writes()
                    figures[way] = run_of(made.names, added=added), made.writes() - known
                    made.check(made.names)
            (ours, written), (theirs, by_hand) = figures["playbook"], figures["by_hand"]
            table.row(count, ours, theirs, ours / theirs, written, 8 * count + 10, by_hand)
            ratios.append(Ratio(f"mesh-add/{count}-clusters-writes", written, 8 * count + 10))
    return ratios
