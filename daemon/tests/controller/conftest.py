"""The local cluster as tests of the controller see it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from clustermesh_lab import ControlPlane
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from meshes import NS, kubectl


@pytest.fixture
async def east(api: ControlPlane) -> AsyncIterator[Client]:
    """A client of the local cluster; whatever a test made of ours is removed after it."""
    async with Client(await from_file(api.kubeconfig), user_agent="test") as client:
        yield client
    kubectl(api, "delete", "remoteclusterconfigurations.clustermesh.io,remotenodes.clustermesh.io", "--all")
    kubectl(api, "delete", "services,endpointslices,endpoints", "--all", "-n", NS, "--ignore-not-found")
