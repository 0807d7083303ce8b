"""The site of ``agent_site`` as a fixture; the topology is that of the kernel tests."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "kernel"))

from agent_site import Site, kubectl
from clustermesh_lab import ControlPlane
from kernel_topology import Namespace, Topology


@pytest.fixture
def site(api: ControlPlane, tmp_path: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Namespace:
            space = Namespace(name)
            stack.callback(space.close)
            return space

        made = Site(Topology(make), api, tmp_path, kubectl)
        stack.callback(made.close)
        yield made
