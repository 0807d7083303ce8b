"""Two control planes with the CRDs of the mesh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clustermesh_lab import ControlPlane

from tests.integration_modules.runner import ROOT, Runner


@pytest.fixture(scope="module")
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def crds() -> list[str]:
    return sorted(str(file) for file in Path(ROOT / "roles/mesh_crds/files").glob("*.yaml"))


@pytest.fixture(scope="module")
def paris() -> Iterator[ControlPlane]:
    with ControlPlane(name="paris", controller_manager=True) as plane:
        yield plane


@pytest.fixture(scope="module")
def oslo() -> Iterator[ControlPlane]:
    with ControlPlane(name="oslo", controller_manager=True) as plane:
        yield plane


@pytest.fixture
def rome() -> Iterator[ControlPlane]:
    with ControlPlane(name="rome", controller_manager=True) as plane:
        yield plane
