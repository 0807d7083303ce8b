"""Kubernetes' own end-to-end suite against a cluster of the lab.

The suite is one program of Kubernetes' module; the test image it asks for is on every node under its public name.
Without other flags it is the network policy suite that runs, less what this kernel lacks (SCTP).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .build import program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .cluster import LabCluster

COMPONENT = "e2e"
NETWORK_POLICY = ("--ginkgo.focus=Netpol", r"--ginkgo.skip=SCTPConnectivity|\[Slow\]|\[Serial\]")


def command_line(cluster: LabCluster, report: Path | None = None, flags: Sequence[str] = ()) -> list[str]:
    """How the suite is run; the program's own flags last, so that they win."""
    where = [f"--report-dir={report}"] if report else []
    return [
        *program("e2e.test"),
        "--provider=skeleton",
        f"--kubeconfig={cluster.kubeconfig}",
        "--allowed-not-ready-nodes=0",
        f"--num-nodes={len(cluster.nodes)}",
        "--dump-logs-on-failure=false",
        "--ginkgo.no-color",
        "--ginkgo.timeout=60m",
        *where,
        *(flags or NETWORK_POLICY),
    ]
