"""A controller that starts while a peer is away: what stands of the peer still never leaves a Service empty."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from clustermesh_lab import ControlPlane
from clustermeshd.kube import resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from clustermeshd.plan import staleness
from meshes import (
    NS,
    access_secret,
    addresses,
    admin,
    configuration,
    controller,
    delete,
    endpoint_slice,
    eventually,
    node,
    put,
    service,
)

NODE = node("n1", "10.2.0.0/24", "192.168.2.1")
LOCAL = endpoint_slice("reviews-1", "10.1.0.5")


@pytest.fixture
async def west(api: ControlPlane, remote_api: ControlPlane, east: Client) -> AsyncIterator[None]:
    """A peer with one endpoint, beside one of our own."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}}
    given = [NODE, service("reviews-23", "reviews"), endpoint_slice("reviews-23", "10.2.0.5")]
    await put(east, namespace, service("reviews-1", "reviews"), LOCAL)
    await put(east, access_secret("west", remote_api.kubeconfig.read_text()), configuration("west", "west"))
    async with admin(remote_api) as client:
        await put(client, namespace, *given)
        yield
        await delete(client, *given)


async def lose(east: Client, remote_api: ControlPlane) -> None:
    """From now on the Secret leads to nobody."""
    await put(
        east, access_secret("west", remote_api.kubeconfig.read_text().replace(remote_api.url, "https://127.0.0.1:1"))
    )


def federated(selector: str = 'app == "reviews"', **annotations: str) -> dict:
    made = service("reviews", selector=selector)
    made["metadata"]["annotations"] |= annotations
    return made


def ready(east: Client, *expected: str):
    async def check() -> bool:
        return await addresses(east, "reviews") == list(expected)

    return check


async def test_local_affinity_fails_over_to_a_peer_that_cannot_be_read_since_the_start(api, remote_api, east, west):
    await put(east, federated(**{names.AFFINITY: "local"}))
    async with controller(api) as (mesh, _):
        await eventually(ready(east, "10.1.0.5"))
        await eventually(lambda: _has_slice_of(east, "west"))
    await lose(east, remote_api)
    async with controller(api) as (mesh, _):
        await eventually(lambda: _is_lost(mesh))
        assert await addresses(east, "reviews") == ["10.1.0.5"]
        await delete(east, LOCAL)
        await eventually(ready(east, "10.2.0.5"))
        await put(east, LOCAL)
        await eventually(ready(east, "10.1.0.5"))


async def test_stale_endpoints_take_over_after_a_restart_when_the_last_local_one_goes(
    api, remote_api, east, west, monkeypatch
):
    await put(east, federated(**{names.STALENESS: "not-ready:0"}))
    async with controller(api):
        await eventually(ready(east, "10.1.0.5", "10.2.0.5"))
    await lose(east, remote_api)
    monkeypatch.setattr(staleness, "GRACE_S", 0.0)
    async with controller(api):
        await eventually(ready(east, "10.1.0.5"))
    monkeypatch.setattr(staleness, "GRACE_S", 3600.0)
    async with controller(api) as (mesh, _):
        await eventually(lambda: _is_lost(mesh))
        assert await addresses(east, "reviews") == ["10.1.0.5"], "stale is what was so before the restart"
        await delete(east, LOCAL)
        await eventually(ready(east, "10.2.0.5"))


async def test_an_owner_can_take_a_dead_cluster_out(api, remote_api, east, west):
    await put(east, federated())
    async with controller(api):
        await eventually(ready(east, "10.1.0.5", "10.2.0.5"))
    await lose(east, remote_api)
    async with controller(api):
        await put(east, federated(f'app == "reviews" && {names.REMOTE_CLUSTER_NAME} != "west"'))
        await eventually(lambda: _has_no_slice_of(east, "west"))
        await eventually(ready(east, "10.1.0.5"))  # the Endpoints object follows the slices


@pytest.mark.parametrize(
    "rules", [{"podCIDRs": ["10.9.0.0/16"], "nodeCIDRs": ["10.9.0.0/16"]}, {"namespaces": ["other"]}]
)
async def test_import_rules_of_now_count_for_what_stands_of_a_peer_that_is_away(api, remote_api, east, west, rules):
    await put(east, federated())
    async with controller(api):
        await eventually(ready(east, "10.1.0.5", "10.2.0.5"))
    await lose(east, remote_api)
    narrowed = configuration("west", "west")
    narrowed["spec"]["import"] = rules
    async with controller(api) as (mesh, _):
        await eventually(lambda: _is_lost(mesh))
        assert await addresses(east, "reviews") == ["10.1.0.5", "10.2.0.5"]
        await put(east, narrowed)
        await eventually(ready(east, "10.1.0.5"))


async def _slices(east: Client) -> list[str]:
    found, _ = await east.list(resources.ENDPOINT_SLICES, NS, label_selector=f"{names.SERVICE_NAME}=reviews")
    return [piece.labels.get(names.REMOTE_CLUSTER, "") for piece in found]


async def _has_slice_of(east: Client, cluster: str) -> bool:
    return cluster in await _slices(east)


async def _has_no_slice_of(east: Client, cluster: str) -> bool:
    return cluster not in await _slices(east)


async def _is_lost(mesh) -> bool:
    peer = mesh.peers.get("west")
    return mesh.has_synced and peer is not None and peer.error is not None


async def test_a_peer_that_is_removed_while_what_stands_of_it_is_read_ends_nothing(
    api, remote_api, east, west, monkeypatch
):
    await put(east, federated())
    async with controller(api):
        await eventually(ready(east, "10.1.0.5", "10.2.0.5"))
    await lose(east, remote_api)
    meshes, removed = [], []
    listed = Client.list

    async def slowly(self, resource, *given, **options):
        found = await listed(self, resource, *given, **options)
        if f"{names.REMOTE_CLUSTER}=west" in (options.get("label_selector") or "") and not removed:
            removed.append(found)
            await delete(east, configuration("west", "west"))
            await eventually(is_closed)
        return found

    async def is_closed():
        return meshes and "west" not in meshes[0].peers

    monkeypatch.setattr(Client, "list", slowly)
    async with controller(api) as (mesh, _):
        meshes.append(mesh)
        await eventually(ready(east, "10.1.0.5"))
    assert removed
