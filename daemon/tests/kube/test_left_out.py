"""What is not held of a server is counted and named with its reason, and forgotten when it is held, or gone."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from aiohttp import web
from clustermeshd.kube import objects, resources
from clustermeshd.kube.budget import Budget, weight
from clustermeshd.kube.informer import Informer, Limits
from clustermeshd.kube.leftout import LeftOut, Why
from hostile_server import client, config_map, event, hostile

CONFIG_MAPS = resources.Resource("", "v1", "configmaps", "ConfigMap", objects.Object)
LARGE = {"annotations": {"pad": "x" * 5_000}}


def large(name: str, version: str = "1") -> dict:
    made = config_map(name, version)
    made["metadata"] |= LARGE
    return made


def unreadable(name: str, version: str = "1") -> dict:
    made = config_map(name, version)
    made["metadata"]["labels"] = {"a": 7}
    return made


@contextlib.asynccontextmanager
async def following(*items: dict, limits: Limits):
    """An informer that has listed the items, and what says events to it."""
    said: asyncio.Queue[bytes] = asyncio.Queue()

    async def listing(_: web.Request) -> web.Response:
        return web.json_response(
            {"kind": "ConfigMapList", "metadata": {"resourceVersion": "10"}, "items": list(items)}
        )

    async def watch(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(await said.get())

    async with hostile() as server, client(server) as to:
        server.on_list, server.on_watch = listing, watch
        made = Informer(to, CONFIG_MAPS, limits=limits)
        task = asyncio.create_task(made.run())
        try:
            await asyncio.wait_for(made.wait_synced(), 5)
            yield made, lambda kind, thing: said.put_nowait(event(kind, thing))
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def eventually(check):
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110  # what is waited for happens on the other side of a socket
            await asyncio.sleep(0.01)


def told(informer: Informer) -> dict[str, str]:
    return {key: why.reason for key, why in informer.left_out}


def held(informer: Informer) -> set[str]:
    return {thing.metadata.name for thing in informer.store.values()}


async def test_an_object_is_left_out_for_its_size_by_list_and_watch_until_it_is_smaller_or_gone():
    async with following(config_map("a"), large("b"), unreadable("c"), limits=Limits(object_bytes=1_024)) as (
        made,
        say,
    ):
        assert told(made) == {"d/b": "ObjectTooLarge", "d/c": "ObjectUnreadable"}
        assert held(made) == {"a"}
        say("MODIFIED", large("a", "11"))
        await eventually(lambda: told(made).get("d/a") == "ObjectTooLarge")
        assert held(made) == {"a"}, "its last readable state stays"
        assert made.left_out.counts == {"ObjectTooLarge": 2, "ObjectUnreadable": 1}
        say("MODIFIED", config_map("a", "12"))
        say("MODIFIED", config_map("b", "13"))
        await eventually(lambda: told(made) == {"d/c": "ObjectUnreadable"})
        assert held(made) == {"a", "b"}
        say("DELETED", unreadable("c", "14"))
        await eventually(lambda: not made.left_out.counts)


async def test_objects_beyond_the_limit_are_all_counted():
    items = [config_map(f"m{number:04}") for number in range(3_000)]
    async with following(*items, limits=Limits(objects=1_000)) as (made, say):
        assert made.left_out.counts == {"LimitReached": 2_000}
        assert list(told(made)) == [f"d/m{number}" for number in range(1_000, 1_020)]
        for _ in range(3):
            say("MODIFIED", config_map("m2999", "11"))
        say("ADDED", config_map("n", "12"))
        await eventually(lambda: made.left_out.counts == {"LimitReached": 2_001})
        for name in ("n", "m2999", "m1000"):
            say("DELETED", config_map(name, "13"))
        await eventually(lambda: made.left_out.counts == {"LimitReached": 1_998})


async def test_a_budget_bounds_what_all_kinds_hold_together():
    budget = Budget(20_000)
    other = budget.share()
    filler = objects.Object(metadata=objects.Metadata(name="filler", annotations={"pad": "x" * 9_000}))
    assert other.swap(None, filler)
    async with following(*(large(f"m{n}") for n in range(4)), limits=Limits(budget=budget)) as (made, say):
        assert held(made) == {"m0", "m1"}
        assert told(made) == {"d/m2": "BudgetReached", "d/m3": "BudgetReached"}
        assert budget.used_bytes == weight(filler) + sum(map(weight, made.store.values()))
        say("MODIFIED", config_map("m0", "11"))
        say("MODIFIED", large("m3", "12"))
        await eventually(lambda: held(made) == {"m0", "m1", "m3"})
        assert told(made) == {"d/m2": "BudgetReached"}
        say("MODIFIED", large("m0", "13"))
        await eventually(lambda: told(made) == {"d/m0": "BudgetReached", "d/m2": "BudgetReached"})
        assert made.store["d/m0"].metadata.resource_version == "11", "its last state that had room stays"
        for name in ("m0", "m1", "m2", "m3"):
            say("DELETED", config_map(name, "14"))
        await eventually(lambda: not made.store and not made.left_out.counts)
        assert budget.used_bytes == weight(filler)


@pytest.mark.parametrize("count", [5, 5_000])
def test_of_any_number_of_names_a_few_are_remembered(count):
    made = LeftOut()
    for number in range(count):
        made.add(f"{number:05}" + "x" * 2_000, Why("LimitReached", "y" * 10_000))
    for _ in range(3):
        made.add("", Why("ObjectUnreadable", "no name"))
    assert made.counts["LimitReached"] == count
    assert made.counts["ObjectUnreadable"] == 3
    assert len(made._known) <= 1_001
    assert len(json.dumps(dict(made))) < 30_000
