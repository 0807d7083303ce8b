"""What an agent writes of its node, when nothing happens: a heartbeat, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from clustermesh_lab import ControlPlane
from clustermeshd.agent import status
from clustermeshd.agent.engine import Outcome
from clustermeshd.agent.status import StatusWriter
from clustermeshd.kube import resources
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import NotFound
from clustermeshd.plan import overlay_status
from clustermeshd.plan.overlay_status import Summary
from conftest import kubectl

NAME = "beating"
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}


def test_an_unchanged_node_is_written_again_only_for_its_heartbeat(api: ControlPlane):
    kubectl(api, "apply", "-f", "-", stdin=json.dumps(NODE))
    now = 1000.0

    async def work() -> list[tuple[str, str | None]]:
        nonlocal now
        seen = []
        async with Client(await from_file(api.kubeconfig), user_agent="test") as client:
            node = await client.get(resources.NODES, NAME)
            writer = StatusWriter(client, NAME, lambda: node, clock=lambda: now)
            writer.offer(Outcome(Summary((), (), (), {})))
            for at in (1000.0, 1269.0, 1331.0):  # the period is 300 s, give or take a tenth
                now = at
                await asyncio.sleep(1.1)  # times are told by the second
                await writer.write()
                found = await client.get(resources.MESH_NODES, NAME)
                seen.append((found.metadata.resource_version, found.status.last_heartbeat_time))
                changed = found.status.last_change_time
            kubectl(api, "wait", "--for=condition=Ready", "--timeout=5s", "meshnode.clustermesh.io", NAME)
            return [*seen, ("changed", changed)]

    try:
        first, quiet, beat, (_, changed) = asyncio.run(work())
    finally:
        kubectl(api, "delete", "node,meshnodes.clustermesh.io", NAME)
    assert first[1] is not None
    assert quiet == first
    assert beat[0] != first[0]
    assert beat[1] is not None
    assert beat[1] > first[1]
    assert changed == first[1]


def test_a_heartbeat_needs_no_news(api: ControlPlane, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlay_status, "HEARTBEAT_S", 1.5)
    monkeypatch.setattr(status, "_SPACING_S", 0.1)
    kubectl(api, "apply", "-f", "-", stdin=json.dumps(NODE))

    async def work() -> set[str | None]:
        seen: set[str | None] = set()
        async with Client(await from_file(api.kubeconfig), user_agent="test") as client:
            node = await client.get(resources.NODES, NAME)
            writer = StatusWriter(client, NAME, lambda: node)
            writer.offer(Outcome(Summary((), (), (), {})))
            running = asyncio.create_task(writer.run())
            async with asyncio.timeout(30):
                while len(seen - {None}) < 3:
                    await asyncio.sleep(0.3)
                    with contextlib.suppress(NotFound):
                        seen.add((await client.get(resources.MESH_NODES, NAME)).status.last_heartbeat_time)
            running.cancel()
        return seen

    try:
        assert len(asyncio.run(work()) - {None}) == 3
    finally:
        kubectl(api, "delete", "node,meshnodes.clustermesh.io", NAME)
