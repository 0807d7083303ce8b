"""The whole controller between two real API servers: mirror, federate, rotate, refuse, forget."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from itertools import pairwise

import pytest
from clustermesh_lab import ControlPlane
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from meshes import (
    NS,
    access_secret,
    add_node,
    addresses,
    apply,
    conditions,
    configuration,
    controller,
    endpoint_slice,
    eventually,
    exposition,
    join,
    kubectl,
    remote_nodes,
    service,
)


@pytest.fixture(autouse=True)
def facts(api: ControlPlane, remote_api: ControlPlane) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}}
    apply(api, namespace)
    add_node(api, "n1", "10.1.0.0/24", "192.168.1.1")
    apply(
        remote_api, namespace, service("reviews-23", "reviews"), endpoint_slice("reviews-23", "10.2.0.5", "10.99.0.1")
    )
    add_node(remote_api, "n1", "10.2.0.0/24", "192.168.2.1")


async def test_nodes_are_mirrored_services_federated_and_status_tells(api, remote_api, east, caplog):
    caplog.set_level("INFO")
    apply(api, service("reviews-1", "reviews"), endpoint_slice("reviews-1", "10.1.0.5"))
    apply(api, service("reviews", selector='app == "reviews"'))
    join(api, remote_api, "west")
    async with controller(api) as (_, metrics):

        async def complete():
            return await addresses(east, "reviews") == ["10.1.0.5", "10.2.0.5"] and await remote_nodes(east) == {
                "west.n1": ("10.2.0.0/24",)
            }

        await eventually(complete)
        slices, _ = await east.list(
            resources.ENDPOINT_SLICES, NS, label_selector=f"{names.SLICE_MANAGED_BY}={names.SLICE_MANAGER}"
        )
        assert sorted(s.labels.get(names.REMOTE_CLUSTER, "local") for s in slices) == ["local", "west"]

        async def told():
            return await conditions(east, "west") == {
                "Connected": ("True", "Connected"),
                "Synced": ("True", "InSync"),
                "Routed": ("True", "OverlayEnabled"),
                "Degraded": ("True", "ObjectsRefused"),  # 10.99.0.1 is no address of the peer
            }

        await eventually(told)
        assert 'connection_status{remote_cluster_name="west"} 2.0' in exposition(metrics)
    assert "Sending in-sync update for RemoteClusterConfiguration(west)" in caplog.text


async def test_a_restart_writes_nothing_and_a_peer_that_is_away_keeps_its_state(api, remote_api, east):
    apply(api, service("reviews", selector='app == "reviews"'))
    join(api, remote_api, "west")

    async def complete():
        return await addresses(east, "reviews") == ["10.2.0.5"]

    async with controller(api):
        await eventually(complete)
        await asyncio.sleep(6)  # one period of the status
    versions = await _versions(east)
    async with controller(api) as (mesh, _):
        await eventually(lambda: _true(mesh.has_synced and mesh.peers["west"].connection is not None))
        await asyncio.sleep(6)
        assert await _versions(east) == versions
    apply(api, access_secret("west", remote_api.kubeconfig.read_text().replace(remote_api.url, "https://127.0.0.1:1")))
    async with controller(api) as (mesh, _):

        async def lost():
            return (await conditions(east, "west")).get("Connected") == ("False", "Unreachable")

        await eventually(lost)
        assert mesh.peers["west"].connection is None
        assert await remote_nodes(east) == {"west.n1": ("10.2.0.0/24",)}
        assert await addresses(east, "reviews") == ["10.2.0.5"]


async def _true(value: bool) -> bool:
    return value


async def _versions(client: Client) -> dict[str, str]:
    found: dict[str, str] = {}
    for resource in (
        resources.REMOTE_NODES,
        resources.ENDPOINT_SLICES,
        resources.ENDPOINTS,
        resources.REMOTE_CLUSTER_CONFIGURATIONS,
    ):
        things, _ = await client.list(resource)
        found |= {f"{resource.kind}/{t.key}": t.metadata.resource_version for t in things}
    return found


async def test_a_deleted_configuration_takes_its_objects_along_and_nothing_else(api, remote_api, east):
    apply(api, service("reviews-1", "reviews"), endpoint_slice("reviews-1", "10.1.0.5"))
    apply(api, service("reviews", selector='app == "reviews"'))
    join(api, remote_api, "west")
    async with controller(api) as (mesh, metrics):

        async def joined():
            return await addresses(east, "reviews") == ["10.1.0.5", "10.2.0.5"]

        await eventually(joined)
        kubectl(api, "delete", "remoteclusterconfigurations.clustermesh.io", "west")

        async def forgotten():
            return await remote_nodes(east) == {} and await addresses(east, "reviews") == ["10.1.0.5"]

        await eventually(forgotten, 5)
        await eventually(lambda: _true(not mesh.peers))
        assert "west" not in exposition(metrics)


async def test_a_configuration_that_a_finalizer_holds_is_forgotten_as_if_it_were_gone(api, remote_api, east, caplog):
    caplog.set_level("INFO")
    apply(api, service("reviews", selector='app == "reviews"'))
    held = configuration("west", "west")
    held["metadata"]["finalizers"] = ["example.org/hold"]
    apply(api, access_secret("west", remote_api.kubeconfig.read_text()), held)
    try:
        async with controller(api) as (mesh, _):

            async def joined():
                return await addresses(east, "reviews") == ["10.2.0.5"]

            await eventually(joined)
            kubectl(api, "delete", "remoteclusterconfigurations.clustermesh.io", "west", "--wait=false")

            async def forgotten():
                return await remote_nodes(east) == {} and await addresses(east, "reviews") == []

            await eventually(forgotten, 5)
            await asyncio.sleep(6)  # one period of the status
            assert not mesh.peers
            assert caplog.text.count("Creating syncer for RemoteClusterConfiguration(west)") == 1
    finally:
        none = '{"metadata": {"finalizers": null}}'
        kubectl(api, "patch", "remoteclusterconfigurations.clustermesh.io", "west", "--type=merge", "-p", none)


async def test_a_rotated_secret_never_empties_anything(api, remote_api, east):
    apply(api, service("reviews", selector='app == "reviews"'))
    join(api, remote_api, "west")
    async with controller(api) as (mesh, _):

        async def joined():
            return await addresses(east, "reviews") == ["10.2.0.5"]

        await eventually(joined)
        before = mesh.peers["west"].connection
        seen = []

        async def rotated():
            seen.append(await addresses(east, "reviews"))
            return mesh.peers["west"].connection is not before

        apply(api, access_secret("west", remote_api.client("second", ["system:masters"]).read_text()))
        await eventually(rotated)
        assert set(map(tuple, seen)) == {("10.2.0.5",)}
        fingerprint = mesh.peers["west"].connection.access.fingerprint
        kubectl(api, "annotate", "secret", "west", "touched=yes", "--overwrite")
        await asyncio.sleep(1)
        assert mesh.peers["west"].connection.access.fingerprint == fingerprint
        assert mesh.peers["west"].credentials is mesh.peers["west"].connection


async def test_a_new_credential_that_is_not_answered_yet_leaves_the_peer_connected(api, remote_api, east):
    join(api, remote_api, "west")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        async with controller(api) as (mesh, _):

            async def connected():
                return (await conditions(east, "west")).get("Connected") == ("True", "Connected")

            await eventually(connected)
            peer = mesh.peers["west"]
            apply(api, access_secret("west", remote_api.kubeconfig.read_text().replace(remote_api.url, url)))
            await eventually(lambda: _true(peer.credentials is not peer.connection))
            for _ in range(2):  # one turn may have been under way
                turn = mesh._last_turn
                mesh._configurations_changed()
                await eventually(lambda turn=turn: _true(mesh._last_turn > turn))
            assert await connected()
            assert peer.credentials is not peer.connection


async def test_planning_rests_as_long_as_it_took(api, east, monkeypatch):
    """Nodes that never come to rest, of a peer that has many, leave the loop time for everything else."""
    turns = []
    async with controller(api) as (mesh, _):
        await eventually(lambda: _true(mesh.has_synced))
        replan = mesh._nodes.replan

        def slow():
            started = time.monotonic()
            time.sleep(0.3)
            replan()
            turns.append((started, time.monotonic()))

        monkeypatch.setattr(mesh._nodes, "replan", slow)

        async def flooded():
            mesh._nodes_changed()
            return len(turns) >= 4

        await eventually(flooded)
    for (began, ended), (again, _) in pairwise(turns):
        assert again - ended >= ended - began


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (None, "SecretMissing"),
        ("apiVersion: v1\nkind: Config\nusers: []\n", "KubeconfigRefused"),
        ("", "SecretInvalid"),
    ],
)
async def test_a_bad_secret_is_told_by_its_reason(api, east, secret, reason):
    apply(api, configuration("broken", "broken"))
    if secret is not None:
        apply(api, access_secret("broken", secret))
    async with controller(api):

        async def told():
            return (await conditions(east, "broken")).get("Connected") == ("False", reason)

        await eventually(told)
    kubectl(api, "delete", "secret", "broken", "--ignore-not-found")


async def test_a_peer_that_is_ourselves_or_twice_the_same_is_refused(api, remote_api, east):
    join(api, api, "self")
    join(api, remote_api, "first")
    await asyncio.sleep(1.1)  # creation times have a resolution of a second
    join(api, remote_api, "second")
    async with controller(api):

        async def told():
            return (
                (await conditions(east, "self")).get("Connected") == ("False", "SameCluster")
                and (await conditions(east, "second")).get("Connected") == ("False", "DuplicateCluster")
                and (await conditions(east, "first")).get("Synced") == ("True", "InSync")
            )

        await eventually(told, 20)
        assert set(await remote_nodes(east)) == {"first.n1"}


async def test_a_peer_that_only_stops_answering_is_noticed_within_30_s_and_keeps_its_state(api, fragile_api, east):
    apply(fragile_api, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}})
    add_node(fragile_api, "q1", "10.7.0.0/24", "192.168.7.1")
    join(api, fragile_api, "quiet")
    async with controller(api):

        def connected(value: str):
            async def check():
                return (await conditions(east, "quiet")).get("Connected", ("",))[0] == value

            return check

        await eventually(connected("True"))
        await asyncio.to_thread(fragile_api.pause, "apiserver")
        await eventually(connected("False"), 30)
        assert await remote_nodes(east) == {"quiet.q1": ("10.7.0.0/24",)}
        await asyncio.to_thread(fragile_api.resume, "apiserver")
        await eventually(connected("True"), 30)


async def test_a_bad_selector_removes_the_endpoints_and_says_why_in_an_event(api, remote_api, east):
    apply(api, service("reviews", selector='app == "reviews"'))
    join(api, remote_api, "west")
    async with controller(api):

        async def joined():
            return await addresses(east, "reviews") == ["10.2.0.5"]

        await eventually(joined)
        apply(api, service("reviews", selector="app = reviews"))

        async def cleared():
            return await addresses(east, "reviews") == []

        await eventually(cleared, 5)
        events = json.loads(kubectl(api, "get", "events", "-n", NS, "-o", "json"))["items"]
        (event,) = [e for e in events if e["reason"] == "InvalidServiceSelector"]
        assert "character 5" in event["message"]


async def test_what_somebody_edits_is_put_right(api, remote_api, east):
    apply(api, service("reviews", selector='app == "reviews"'))
    join(api, remote_api, "west")
    async with controller(api):

        async def right():
            return await addresses(east, "reviews") == ["10.2.0.5"] and set(await remote_nodes(east)) == {"west.n1"}

        await eventually(right)
        kubectl(api, "delete", "remotenodes.clustermesh.io", "west.n1")
        kubectl(api, "delete", "endpoints", "reviews", "-n", NS)
        await eventually(right)
        stored = await east.get(resources.REMOTE_NODES, "west.n1")
        assert isinstance(stored, objects.RemoteNode)
