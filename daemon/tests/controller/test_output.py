"""What stands in our slices and Endpoints is what we wrote, whoever edits it, and fits the nodes of now."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from clustermesh_lab import ControlPlane
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
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

CHANGED = "2026-01-02T03:04:05Z"


def given(trigger: str = "", address: str = "10.2.0.5") -> dict:
    made = endpoint_slice("reviews-23", address)
    made["metadata"]["annotations"] = {names.LAST_CHANGE_TRIGGER: trigger} if trigger else {}
    made["endpoints"][0] |= {
        "hostname": "db-0",
        "nodeName": "w1",
        "conditions": {"ready": True, "serving": True, "terminating": False},
    }
    return made


@pytest.fixture
async def west(api: ControlPlane, remote_api: ControlPlane, east: Client) -> AsyncIterator[Client]:
    """A peer whose endpoint is in a federated Service of ours."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}}
    stays = [node("w1", "10.2.0.0/24", "192.168.2.1"), service("reviews-23", "reviews"), given()]
    await put(east, namespace, service("reviews", selector='app == "reviews"'))
    await put(east, access_secret("west", remote_api.kubeconfig.read_text()), configuration("west", "west"))
    async with admin(remote_api) as client:
        await put(client, namespace, *stays)
        yield client
        await delete(client, *stays)


async def our_slice(east: Client) -> objects.EndpointSlice | None:
    found, _ = await east.list(resources.ENDPOINT_SLICES, NS, label_selector=f"{names.SERVICE_NAME}=reviews")
    return next(iter(found), None)


def federated(east: Client, address: str):
    async def check() -> bool:
        piece = await our_slice(east)
        shown = await addresses(east, "reviews")
        return (
            piece is not None and [e.addresses for e in piece.endpoints or ()] == [(address,)] and shown == [address]
        )

    return check


async def test_what_somebody_edits_in_a_slice_or_endpoints_is_put_back(api, east, west):
    async with controller(api):
        await eventually(federated(east, "10.2.0.5"))
        written = await our_slice(east)
        assert written is not None
        edited = endpoint_slice("x", "10.2.0.66") | {"metadata": {"name": written.metadata.name, "namespace": NS}}
        await put(east, edited)
        await eventually(federated(east, "10.2.0.5"))
        path = f"{resources.ENDPOINT_SLICES.path(NS)}/{written.metadata.name}"
        await east.request(
            "PATCH",
            path,
            body=b'{"metadata":{"labels":{"clustermesh.io/remote-cluster":"other"}}}',
            content_type="application/merge-patch+json",
        )

        async def labelled() -> bool:
            piece = await our_slice(east)
            return piece is not None and piece.labels.get(names.REMOTE_CLUSTER) == "west"

        await eventually(labelled)
        await east.request(
            "PATCH",
            f"{resources.ENDPOINTS.path(NS)}/reviews",
            body=b'{"subsets":[{"addresses":[{"ip":"10.2.0.66"}],"ports":[{"name":"http","port":1}]}]}',
            content_type="application/merge-patch+json",
        )
        await eventually(federated(east, "10.2.0.5"))


async def test_state_hostname_and_the_time_of_the_last_change_arrive_as_the_origin_has_them(api, east, west):
    async with controller(api):
        await eventually(federated(east, "10.2.0.5"))
        await put(west, given(CHANGED, "10.2.0.6"))
        await eventually(federated(east, "10.2.0.6"))
        piece = await our_slice(east)
        assert piece is not None
        assert piece.annotations.get(names.LAST_CHANGE_TRIGGER) == CHANGED
        (endpoint,) = piece.endpoints or ()
        assert endpoint.hostname == "db-0"
        assert endpoint.conditions == objects.EndpointConditions(ready=True, serving=True, terminating=False)


async def test_a_node_of_ours_that_comes_with_the_name_of_a_remote_one_takes_the_name_from_its_endpoints(
    api, east, west
):
    async with controller(api):

        def on(node_name: str | None):
            async def check() -> bool:
                piece = await our_slice(east)
                return piece is not None and [e.node_name for e in piece.endpoints or ()] == [node_name]

            return check

        await eventually(on("w1"))
        ours = node("w1", "10.1.77.0/24", "192.168.1.77")
        await put(east, ours)
        await eventually(on(None))
        await delete(east, ours)
        await eventually(on("w1"))
