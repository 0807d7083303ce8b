"""``mesh-noop``: the playbook on clusters that are meshed already: its writes, and its time beside a first run's."""

from __future__ import annotations

import argparse

from bench.mesh_api import add_arguments, site
from bench.report import Ratio, Table

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> list[Ratio]:
    table = Table("clusters", "first run s", "again s", "writes", "writes again")
    written = 0
    for count in options.clusters:
        with site(count) as made:
            first = made.playbook(made.names)
            before = made.writes()
            for _ in range(options.rounds):
                again = made.playbook(made.names)
                written += made.writes() - before
                table.row(count, first, again, before, made.writes() - before)
    return [Ratio("mesh-noop/writes", written, 0)]
