"""Fixtures over the topology of ``kernel_topology``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from kernel_topology import Namespace, Topology


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
