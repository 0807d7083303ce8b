"""Events are said once: a peer that keeps changing what is refused of it writes no novel into our API server."""

from __future__ import annotations

import asyncio
import json

import pytest
from clustermeshd.controller.events import Events
from clustermeshd.kube import objects
from meshes import access_secret, admin, configuration, controller, delete, eventually, kubectl, put

THING = objects.Object(metadata=objects.Metadata(name="west", uid="1"))


@pytest.fixture
def said():
    """Messages that were written, a clock, and something to say them with."""

    class Writer:
        def __init__(self):
            self.messages = []
            self.now = 100.0
            self.events = Events(self, lambda: None, clock=lambda: self.now)

        async def apply(self, resource, body, **_):
            self.messages.append(body["message"])

        async def warn(self, reason, message, **more):
            await self.events.warn(THING, "v1", "Thing", reason, message, **more)

    return Writer()


async def test_what_a_person_corrects_is_told_at_once_and_nothing_twice(said):
    for text in ("first", "first", "second", "second", "first"):
        await said.warn("InvalidServiceSelector", text)
    assert said.messages == ["first", "second", "first"]


async def test_an_example_that_keeps_changing_is_told_once_and_again_after_a_rest(said):
    for number in range(100):
        await said.warn("OverlapsLocal", f"Node n{number}", rest_s=60)
        said.now += 0.5
    assert said.messages == ["Node n0"]
    await said.warn("Reserved", "Node n0", rest_s=60)
    said.now += 60
    await said.warn("OverlapsLocal", "Node n0", rest_s=60)  # nothing new
    await said.warn("OverlapsLocal", "Node n1", rest_s=60)
    await said.warn("OverlapsLocal", "Node n2", rest_s=60)
    assert said.messages == ["Node n0", "Node n0", "Node n1"]


async def test_a_peer_whose_refused_node_has_another_name_each_time_gets_one_event(api, remote_api, east):
    def bad(number):
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"bad-{number}"},
            "spec": {"podCIDR": "10.96.3.0/24", "podCIDRs": ["10.96.3.0/24"]},  # of our Services
            "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.2.{number}"}]},
        }

    def events():
        told = json.loads(kubectl(api, "get", "events", "-n", "default", "-o", "json"))["items"]
        uid = json.loads(kubectl(api, "get", "rcc", "west", "-o", "json"))["metadata"]["uid"]
        return [e for e in told if e["involvedObject"].get("uid") == uid and e["reason"] == "OverlapsLocal"]

    await put(east, access_secret("west", remote_api.kubeconfig.read_text()), configuration("west", "west"))
    async with admin(remote_api) as west, controller(api):

        async def told():
            return len(events()) > 0

        await put(west, bad(1))
        await eventually(told)
        for number in range(2, 12):
            await put(west, bad(number))
            await delete(west, bad(number - 1))
            await asyncio.sleep(0.3)
        await delete(west, bad(11))
        assert len(events()) == 1
