"""Nodes that take long to write, and servers that lie about who they are, hold up nothing else."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from clustermeshd.controller import connection
from clustermeshd.controller.connection import Connection
from clustermeshd.kube import objects, resources
from clustermeshd.kube.writer import Writer
from clustermeshd.model import names
from clustermeshd.model.errors import Refused
from meshes import (
    access_secret,
    add_node,
    conditions,
    configuration,
    controller,
    eventually,
    join,
    put,
    remote_nodes,
)


async def test_configurations_are_followed_and_statuses_written_while_nodes_still_are(
    api, remote_api, east, monkeypatch
):
    add_node(remote_api, "n1", "10.2.0.0/24", "192.168.2.1")
    join(api, remote_api, "west")
    write, held = Writer.write, asyncio.Event()

    async def slow(self, resource, desired, **options):
        if resource is resources.REMOTE_NODES:
            await held.wait()
        return await write(self, resource, desired, **options)

    monkeypatch.setattr(Writer, "write", slow)
    async with controller(api) as (mesh, _):

        def told(name: str, type_: str, reason: str):
            async def check() -> bool:
                return (await conditions(east, name)).get(type_, ("", ""))[1] == reason

            return check

        await eventually(told("west", "Synced", "InSync"))
        await put(east, configuration("late", "late"))
        await eventually(told("late", "Connected", "SecretMissing"), 5)
        await put(east, access_secret("late", "apiVersion: v1\nkind: Config\nusers: []\n"))
        await eventually(told("late", "Connected", "KubeconfigRefused"), 5)
        assert await remote_nodes(east) == {}
        held.set()

        async def mirrored() -> bool:
            return await remote_nodes(east) == {"west.n1": ("10.2.0.0/24",)}

        await eventually(mirrored)
        assert mesh.is_alive()


async def test_nodes_of_a_peer_that_is_gone_are_removed_several_at_once(api, east, monkeypatch):
    for number in range(40):
        await east.apply(resources.REMOTE_NODES, _remote_node(f"n{number}"), manager="test", name=f"gone.n{number}")
    remove, running, most = Writer.remove, set(), 0

    async def slow(self, resource, thing):
        nonlocal most
        running.add(thing.key)
        most = max(most, len(running))
        await asyncio.sleep(0.2)
        running.discard(thing.key)
        return await remove(self, resource, thing)

    monkeypatch.setattr(Writer, "remove", slow)
    async with controller(api):
        started = time.monotonic()

        async def empty() -> bool:
            return await remote_nodes(east) == {}

        await eventually(empty)
        assert time.monotonic() - started < 40 * 0.2
        assert 1 < most <= 8


def _remote_node(node: str) -> objects.RemoteNode:
    return objects.RemoteNode(
        metadata=objects.Metadata(
            name=f"gone.{node}", labels={names.REMOTE_CLUSTER: "gone", names.MANAGED_BY: names.MANAGER}
        ),
        spec=objects.RemoteNodeSpec(
            cluster_id="id",
            cluster_name="gone",
            node_name=node,
            overlay_routing_mode="Enabled",
            addresses=("192.168.9.9",),
            vtep_mac="0e:00:00:00:00:01",
        ),
    )


@pytest.mark.parametrize("uid", ["", "x" * 200])
async def test_a_server_that_tells_no_uid_is_refused_by_that_reason_and_takes_nothing_away(uid, monkeypatch):
    monkeypatch.setattr(connection, "_REFUSED_RETRY_S", 0.01)
    accepted: list[str] = []
    uids = iter([uid, uid, "6f1e0c9e-5b1c-4f5e-9d55-0d8f3a1c7f10"])
    problems: list[str] = []

    async def get(*_: object) -> objects.Namespace:
        problems.append(made.problem.reason if isinstance(made.problem, Refused) else "")
        return objects.Namespace(metadata=objects.Metadata(name="kube-system", uid=next(uids)))

    async def server_version() -> str:
        return "v1.36.0"

    made = Connection.__new__(Connection)
    made.access = SimpleNamespace(server="https://west:6443")
    made.problem = None
    made._client = SimpleNamespace(get=get, server_version=server_version)
    made._accept = accepted.append
    await asyncio.wait_for(made._identify(), 5)
    assert problems == ["", "InvalidIdentity", "InvalidIdentity"]
    assert accepted == ["6f1e0c9e-5b1c-4f5e-9d55-0d8f3a1c7f10"]
