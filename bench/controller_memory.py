"""``controller-memory``: what the controller process keeps in memory, per remote pod and at all.

A remote pod is an endpoint with node name, zone and target, behind federated Services; that is what the controller
reads of pods. Measured at rest in two ways: grown while it runs, and started when everything is there.
"""

from __future__ import annotations

import argparse
import time

from bench.federation import Clusters, Controller, Size, clusters, controller
from bench.report import Ratio, Table

KIB, MIB = 1 << 10, 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--services", type=int, default=1000, help="federated Services, and Services of each remote")
    parser.add_argument("--endpoints", type=int, default=50, help="endpoints of each remote Service")


def run(options: argparse.Namespace) -> list[Ratio]:
    size = Size(services=options.services, endpoints=options.endpoints)
    table = Table("remote pods", "how", "RSS MiB", "peak MiB", "KiB per pod")
    with clusters(size) as (made, directory):
        made.join()
        with controller(made.local.kubeconfig, directory) as running:
            base = _at_rest(made, running, 0)
            table.row(0, "started", base / MIB, running.peak_bytes() / MIB, "")
            made.fill()
            grown = _at_rest(made, running, size.services)
            table.row(size.total, "grown", grown / MIB, running.peak_bytes() / MIB, (grown - base) / size.total / KIB)
        with controller(made.local.kubeconfig, directory) as running:
            started = _at_rest(made, running, size.services)
            each = (started - base) / size.total / KIB
            table.row(size.total, "started", started / MIB, running.peak_bytes() / MIB, each)
    per_pod = (max(started, grown) - base) / size.total / KIB
    return [
        Ratio("controller-memory/KiB-per-pod", per_pod, 1.5),
        Ratio("controller-memory/base-MiB", base / MIB, 110),
    ]


def _at_rest(made: Clusters, running: Controller, services: int) -> int:
    """Resident bytes once everything is written and nothing moves any more."""
    running.until_in_sync(made.size.remotes, services)
    resident, quiet_since = 0, time.monotonic()
    while time.monotonic() - quiet_since < 8:
        if abs(running.resident_bytes() - resident) > 256 * KIB:
            resident, quiet_since = running.resident_bytes(), time.monotonic()
        time.sleep(0.1)
    return resident
