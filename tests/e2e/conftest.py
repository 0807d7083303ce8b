"""One meshed lab for all tests of a module, made as the README says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clustermesh_lab import Lab, Topology

from demo import scenario


@pytest.fixture(scope="module")
def meshed(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of the module's PRESET, with machines, meshed by mesh.yml and with the bookinfo example deployed."""
    preset = request.module.PRESET
    lab = Lab.up(Topology.preset(preset), name=f"e2e-{preset}", machines=True)
    try:
        scenario.playbook(lab)
        scenario.deploy(lab)
        scenario.federated(lab)
        yield lab
    finally:
        lab.down()
