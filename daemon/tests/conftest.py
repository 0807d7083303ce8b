"""Real API servers for the tests that speak to one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustermesh_lab import ControlPlane
from clustermesh_lab.build import program
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # a time says nothing where others compute too
settings.load_profile("shared machine")
CRDS = Path(__file__).parents[2] / "roles" / "mesh_crds" / "files"


def install_crds(api: ControlPlane) -> None:
    """Applies our CRDs and waits until they are served."""
    kubectl(api, "apply", "--server-side", "-f", str(CRDS))
    kubectl(api, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def kubectl(api: ControlPlane, *argv: str, stdin: str | None = None) -> str:
    return subprocess.run(
        [*program("kubectl"), f"--kubeconfig={api.kubeconfig}", *argv],
        input=stdin,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


@pytest.fixture(scope="session")
def api() -> Iterator[ControlPlane]:
    """An API server with our CRDs that no test may break."""
    with ControlPlane(name="east", services=("10.96.0.0/16",)) as running:
        install_crds(running)
        yield running


@pytest.fixture(scope="session")
def remote_api() -> Iterator[ControlPlane]:
    """A second cluster's API server."""
    with ControlPlane(name="west", services=("10.97.0.0/16",)) as running:
        yield running


@pytest.fixture(scope="session")
def meshed_remote_api() -> Iterator[ControlPlane]:
    """A remote cluster that has our kinds too; a test removes what it made of them."""
    with ControlPlane(name="meshed-west", services=("10.97.0.0/16",)) as running:
        install_crds(running)
        yield running


@pytest.fixture
def fragile_api() -> Iterator[ControlPlane]:
    """An API server of one test, to be stopped, killed and compacted."""
    with ControlPlane(name="fragile") as running:
        yield running
