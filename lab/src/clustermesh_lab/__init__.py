"""Real Kubernetes clusters on one machine, for demos, tests and benchmarks.

    from clustermesh_lab import ControlPlane, Lab, Topology

    with ControlPlane() as api:                     # etcd and API server alone, ready in seconds
        run_tests(api.kubeconfig)

    lab = Lab.up(Topology.preset("demo"), name="ci")   # whole clusters, nodes and pods included
    lab.clusters["east"].kubectl("get", "nodes")
    lab.down()

The names are loaded on first use: programs of the lab that run inside a node import this package too and need only
the standard library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .controlplane import ControlPlane
    from .errors import LabError
    from .lab import Lab
    from .topology import Topology

__all__ = ["ControlPlane", "Lab", "LabError", "Topology"]

_HOMES = {"ControlPlane": "controlplane", "Lab": "lab", "LabError": "errors", "Topology": "topology"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
