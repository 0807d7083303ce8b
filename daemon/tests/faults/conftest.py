"""Fixtures of the fault tests: the topology of the kernel tests, and the agent's site on top of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "kernel"))
sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from agent_process import Agent
from agent_site import Site, kubectl
from clustermesh_lab import ControlPlane
from fault_mesh import Driver, Stream, phantom
from kernel_topology import MeshNode, Namespace, Topology


@pytest.fixture
def spaces() -> Iterator[Callable[[str], Namespace]]:
    """Maker of namespaces that are removed at the end, whatever happens."""
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Namespace:
            space = Namespace(name)
            stack.callback(space.close)
            return space

        yield make


@pytest.fixture
def nodes(spaces: Callable[[str], Namespace]) -> Iterator[Topology]:
    """Two dual-stack nodes that are not meshed yet."""
    topology = Topology(spaces)
    yield topology
    topology.close()


@pytest.fixture
def mesh(nodes: Topology) -> Topology:
    """The same, meshed."""
    nodes.a.reconcile()
    nodes.b.reconcile()
    return nodes


@pytest.fixture
def drive() -> Iterator[Callable[[MeshNode], Driver]]:
    """Maker of drivers that are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(node: MeshNode) -> Driver:
            driver = Driver(node)
            stack.callback(driver.close)
            return driver

        yield make


@pytest.fixture
def site(api: ControlPlane, spaces: Callable[[str], Namespace], tmp_path: Path) -> Iterator[Site]:
    """Node a under a real agent with a real API server."""
    made = Site(Topology(spaces), api, tmp_path, kubectl)
    yield made
    made.close()


@pytest.fixture
def agent(site: Site) -> Agent:
    """An agent that has programmed node b and a phantom."""
    site.write_remote(site.nodes.b.as_remote())
    site.write_remote(phantom(1))
    started = site.start()
    started.until_notified("READY=1")
    return started


@pytest.fixture
def stream(site: Site, agent: Agent) -> Iterator[Stream]:
    with Stream(site.nodes.pod_a, site.nodes.pod_b, "10.92.1.5") as running:
        yield running
