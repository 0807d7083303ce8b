"""A prefix that was accepted of a peer is not another one's to take, before and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from clustermesh_lab import ControlPlane
from clustermeshd.kube import resources
from clustermeshd.kube.client import Client
from meshes import (
    access_secret,
    admin,
    configuration,
    controller,
    delete,
    eventually,
    kubectl,
    node,
    put,
    remote_nodes,
)

OWN, GRABBED = node("o1", "10.8.0.0/24", "192.168.8.8"), node("o2", "10.2.0.0/24", "192.168.8.9")
VICTIM = node("v1", "10.2.0.0/24", "192.168.2.1")


@pytest.fixture
async def old(meshed_remote_api: ControlPlane) -> AsyncIterator[Client]:
    async with admin(meshed_remote_api) as client:
        await put(client, OWN)
        yield client
        await delete(client, OWN, GRABBED)


@pytest.fixture
async def young(remote_api: ControlPlane) -> AsyncIterator[Client]:
    kubectl(remote_api, "delete", "nodes", "--all")  # other tests' nodes would be routed to as well
    async with admin(remote_api) as client:
        await put(client, VICTIM)
        yield client
        await delete(client, VICTIM)


async def test_the_older_peer_takes_nothing_of_the_younger_until_that_one_gives_it_up(
    api, remote_api, meshed_remote_api, east, old, young
):
    await put(east, access_secret("old", meshed_remote_api.kubeconfig.read_text()), configuration("old", "old"))
    await asyncio.sleep(1.1)  # creation times have a resolution of a second
    await put(east, access_secret("young", remote_api.kubeconfig.read_text()), configuration("young", "young"))

    def routes(**expected: tuple[str, ...]):
        async def check() -> bool:
            found = await remote_nodes(east)
            return found == {name.replace("_", "."): cidrs for name, cidrs in expected.items()}

        return check

    async def refused() -> bool:
        status = (await east.get(resources.REMOTE_CLUSTER_CONFIGURATIONS, "old")).status
        return [(r.name, r.reason) for r in status.refused or ()] == [("o2", "OverlapsPeer")]

    stands = {"old_o1": ("10.8.0.0/24",), "young_v1": ("10.2.0.0/24",)}
    async with controller(api):
        await eventually(routes(**stands))
        await put(old, GRABBED)
        await eventually(refused)
        await eventually(routes(**stands, old_o2=()))
    async with controller(api) as (mesh, _):

        async def has_read_both() -> bool:
            return len(mesh.peers) == 2 and all(peer.connection is not None for peer in mesh.peers.values())

        await eventually(has_read_both)
        await eventually(refused)
        assert await routes(**stands, old_o2=())()
        await delete(young, VICTIM)
        await eventually(routes(old_o1=("10.8.0.0/24",), old_o2=("10.2.0.0/24",)))
