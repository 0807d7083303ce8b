"""A server that lies, floods, stalls or breaks off: what was known stays, and the truth is taken when it comes."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import msgspec
import pytest
from aiohttp import web
from clustermeshd.controller import prefixes
from clustermeshd.kube import client as client_module
from clustermeshd.kube import errors, objects, resources
from clustermeshd.kube.informer import Informer, Limits
from hostile_server import client, config_map, event, hostile, page

CONFIG_MAPS = resources.Resource("", "v1", "configmaps", "ConfigMap", objects.Object)
THINGS = resources.Resource("example.org", "v1", "things", "Thing", objects.Object, optional=True)


@contextlib.asynccontextmanager
async def following(server, *, resource=CONFIG_MAPS, limits=None, timeouts=None, **options):
    """An informer at work against the server."""
    async with client(server, **(timeouts or {})) as to:
        made = Informer(to, resource, max_backoff_s=0.05, limits=limits or Limits(), **options)
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def eventually(check, timeout_s=10.0):
    async with asyncio.timeout(timeout_s):
        while not check():  # noqa: ASYNC110  # what is waited for happens on the other side of a socket
            await asyncio.sleep(0.01)


def names_in(informer):
    return {thing.metadata.name for thing in informer.store.values()}


def text(body, **more):
    async def handler(_):
        return web.Response(body=body, content_type="application/json", **more)

    return handler


def listing(*items, version="10", kind="ConfigMapList"):
    async def handler(_):
        return page(*items, version=version, kind=kind)

    return handler


def saying(server, *chunks, end=False):
    """Says the chunks on the first watch; later ones are silent."""
    said = []

    async def handler(request):
        first, _ = not said, said.append(1)
        return await server.say(request, *(chunks if first else ()), end=end and first)

    return handler


@pytest.mark.parametrize(
    "body",
    [
        b'{"metadata":{"resourceVersion":"11"},"items":[{"meta',
        b"",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b"{}",
        b'{"kind":"PodList","metadata":{"resourceVersion":"11"},"items":[]}',
        b'{"kind":"ConfigMap","metadata":{"name":"b","resourceVersion":"11"}}',
        b'{"kind":"Status","code":404}',
        b'{"metadata":{"resourceVersion":"11"},"items":[{"metadata":{"name":7}}]}',
    ],
)
async def test_a_list_that_is_no_list_changes_nothing_and_the_next_good_one_is_taken(body):
    async with hostile() as server:
        server.on_list, server.on_watch = listing(config_map("a")), saying(server, end=True)
        async with following(server) as informer:
            await eventually(lambda: names_in(informer) == {"a"})
            server.on_list = text(body)
            server.on_watch = lambda request: server.say(
                request, event("ERROR", {"code": 410, "message": "gone"}), end=True
            )
            await eventually(lambda: isinstance(informer.error, errors.Rejected))
            assert names_in(informer) == {"a"}
            server.on_list, server.on_watch = listing(config_map("b", 20), version="20"), server.silence
            await eventually(lambda: names_in(informer) == {"b"})
            assert informer.error is None


@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"kind":"Status","code":200}'])
async def test_watches_that_say_nothing_readable_are_no_sign_that_all_is_well(body):
    async with hostile() as server:
        server.on_list, server.on_watch = listing(config_map("a")), saying(server, end=True)
        async with following(server) as informer:
            await eventually(lambda: names_in(informer) == {"a"})
            server.on_list = server.on_watch = text(body)
            await eventually(lambda: isinstance(informer.error, errors.Rejected))
            assert names_in(informer) == {"a"}


def status(code):
    async def handler(_):
        return web.json_response({"kind": "Status", "code": code}, status=code)

    return handler


def serving(server, **answers):
    """Lists as they are, and documents of discovery by path; every other path is 404."""

    async def on_list(request):
        if request.path in answers:
            return web.json_response(answers[request.path])
        return await status(404)(request)

    server.on_list = server.on_watch = on_list


def resource_list(*plurals, version="example.org/v1"):
    return {"kind": "APIResourceList", "groupVersion": version, "resources": [{"name": name} for name in plurals]}


HOME = "/apis/example.org/v1"
OTHERS = {"kind": "APIGroupList", "groups": [{"versions": [{"groupVersion": "apps/v1"}]}]}
WITH_OURS = {"kind": "APIGroupList", "groups": [{"versions": [{"groupVersion": "example.org/v1"}]}]}


@pytest.mark.parametrize("has_listed", [True, False])
@pytest.mark.parametrize("resource", [CONFIG_MAPS, THINGS])
async def test_a_404_alone_empties_nothing_and_is_no_first_list(resource, has_listed):
    async with hostile() as server:
        if has_listed:
            server.on_list, server.on_watch = listing(config_map("a"), kind=f"{resource.kind}List"), server.silence
        else:
            server.on_list = server.on_watch = status(404)
        async with following(server, resource=resource, gone_after_s=0) as informer:
            if has_listed:
                await eventually(lambda: informer.has_synced)
                server.on_list = server.on_watch = status(404)
                await server.break_off()
            await eventually(lambda: isinstance(informer.error, errors.NotFound))
            await asyncio.sleep(0.5)
            assert names_in(informer) == ({"a"} if has_listed else set())
            assert informer.has_synced is has_listed
            assert informer.served


@pytest.mark.parametrize(
    ("answers", "is_gone"),
    [
        ({"/apis": OTHERS}, True),
        ({HOME: resource_list("x")}, True),
        ({"/apis": WITH_OURS}, False),
        ({"/apis": {}}, False),
        ({"/apis": {"kind": "APIGroupList", "groups": []}}, False),
        ({"/apis": OTHERS | {"kind": "PodList"}}, False),
        ({HOME: {}}, False),
        ({HOME: resource_list()}, False),
        ({HOME: resource_list("x", version="apps/v1")}, False),
        ({HOME: resource_list("things")}, False),
    ],
)
async def test_an_optional_kind_is_gone_when_discovery_that_knows_others_does_not_have_it(answers, is_gone):
    async with hostile() as server:
        server.on_list, server.on_watch = listing(config_map("a"), kind="ThingList"), server.silence
        async with following(server, resource=THINGS, gone_after_s=0.2) as informer:
            await eventually(lambda: names_in(informer) == {"a"})
            serving(server, **answers)
            await server.break_off()
            if is_gone:
                await eventually(lambda: names_in(informer) == set())
                assert not informer.served
                assert informer.error is None
                return
            await eventually(lambda: isinstance(informer.error, errors.NotFound))
            await asyncio.sleep(0.5)
            assert names_in(informer) == {"a"}
            assert informer.served


async def test_a_list_that_breaks_off_removes_nothing():
    async def broken(request):
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(b'{"metadata":{"resourceVersion":"11"},"items":[')
        request.transport.close()
        return response

    async with hostile() as server:
        server.on_list, server.on_watch = listing(config_map("a")), saying(server, end=True)
        async with following(server) as informer:
            await eventually(lambda: names_in(informer) == {"a"})
            server.on_list = broken
            server.on_watch = lambda request: server.say(request, event("ERROR", {"code": 410}), end=True)
            await eventually(lambda: isinstance(informer.error, errors.Unreachable))
            assert names_in(informer) == {"a"}


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ADDED","object":{"metadata":{"na\n',
        b"\xff\xfe\n",
        b"[" * 20_000 + b"\n",
        b'{"type":"ADDED","object":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}\n",
        b'{"type":"ADDED","object":7}\n',
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":{"metadata":{"name":7}}}\n',
        b'"' + b"x" * 300_000 + b'"\n',
    ],
)
async def test_a_line_that_cannot_be_read_is_counted_and_the_next_one_counts(line, monkeypatch):
    monkeypatch.setattr(client_module, "_MAX_LINE", 200_000)
    async with hostile() as server:
        server.on_watch = saying(server, line, event("ADDED", config_map("good", 11)))
        async with following(server) as informer:
            await eventually(lambda: names_in(informer) == {"good"})
            assert informer.skipped == 1
            assert server.lists == 1


async def test_a_line_without_end_is_not_held_in_memory(monkeypatch):
    monkeypatch.setattr(client_module, "_MAX_LINE", 100_000)
    largest = 0
    async with hostile() as server:
        server.on_watch = saying(server, *[b"x" * 50_000] * 40, b"\n", event("ADDED", config_map("good", 11)))
        async with client(server) as to, to.stream("/api/v1/configmaps", {"watch": "1"}, idle_timeout_s=5) as lines:
            async for line in lines:
                largest = max(largest, len(line))
                if b"good" in line:
                    break
    assert largest < 1000, "the long line is told by its absence"


@pytest.mark.parametrize("items", [(), (config_map("a"),)])
async def test_pages_without_end_are_refused_and_empty_nothing(items):
    async def endless(_):
        return page(*items, more="again")

    async with hostile() as server:
        server.on_list = endless
        async with following(server, limits=Limits(objects=10)) as informer:
            await eventually(lambda: isinstance(informer.error, errors.Rejected))
            assert informer.error.reason == "ListTooLong"
            assert not informer.has_synced


@pytest.mark.parametrize(
    ("length", "most", "expected"),
    [
        (10, 1 << 20, [100, 500, 500, 500]),
        (3_000, 1 << 20, [100, 167, 167, 167]),
        (9_000, 1 << 20, [100, 100, 100, 100]),
        (3_000, 1 << 18, [100, 12, 12, 12]),  # the first is no answer that anybody holds
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
async def test_pages_grow_where_objects_are_small(monkeypatch, length, most, expected, ahead):
    asked = []

    async def some(request):
        asked.append(int(request.query["limit"]))
        items = (config_map(f"c{i}", data={"a": "a" * length}) for i in range(asked[-1]))
        return page(*items, more="more" if len(asked) < 4 else "")

    monkeypatch.setattr(client_module, "_MAX_BODY", most)
    async with hostile() as server, client(server) as to:
        server.on_list = some
        async for _ in to.pages(CONFIG_MAPS, ahead=ahead):
            pass
    assert asked == expected


@pytest.mark.parametrize("ahead", [False, True])
async def test_a_page_that_has_become_too_large_is_asked_for_again_in_part(monkeypatch, ahead):
    asked, names = [], []

    async def some(request):
        asked.append((request.query.get("continue"), int(request.query["limit"])))
        length = 10 if len(asked) == 1 else 3_000
        items = (config_map(f"c{len(asked)}-{i}", data={"a": "a" * length}) for i in range(asked[-1][1]))
        return page(*items, more=str(len(asked)) if len(asked) < 4 else "")

    monkeypatch.setattr(client_module, "_MAX_BODY", 1 << 20)
    async with hostile() as server, client(server) as to:
        server.on_list = some
        async for found in to.pages(CONFIG_MAPS, ahead=ahead):
            names += [item.metadata.name for item in found.items]
    assert asked == [(None, 100), ("1", 500), ("1", 62), ("3", 62)]
    assert len(names) == len(set(names)) == 224


@pytest.mark.parametrize(("ahead", "lists"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("is_broken", [False, True])
async def test_the_next_page_is_asked_for_ahead_where_that_is_wanted_and_may_be_left(ahead, lists, is_broken, caplog):
    async def endless(request):
        if is_broken and "continue" in request.query:
            raise web.HTTPInternalServerError
        return page(config_map("c"), more="more")

    async with hostile() as server, client(server) as to:
        server.on_list = endless
        found = to.pages(CONFIG_MAPS, ahead=ahead)
        assert len((await anext(found)).items) == 1
        await asyncio.sleep(0.2)
        assert server.lists == lists
        await found.aclose()
        del found
        gc.collect()
        await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text


async def test_more_objects_than_the_limit_are_left_out_and_counted():
    async with hostile() as server:
        server.on_list = listing(*(config_map(f"c{i}") for i in range(5)))
        server.on_watch = saying(server, event("ADDED", config_map("c9", 11)))
        async with following(server, limits=Limits(objects=3)) as informer:
            await eventually(lambda: informer.skipped == 3)
            assert names_in(informer) == {"c0", "c1", "c2"}


async def test_no_server_makes_us_keep_a_cookie():
    said = []

    async def version(request):
        said.append(request.headers.get("Cookie"))
        answer = web.json_response({"gitVersion": "v1.99.0"})
        answer.set_cookie("track", "x" * 1000)
        return answer

    async with hostile() as server:
        server.url = server.url.replace("127.0.0.1", "localhost")  # cookies of an address are never kept
        server.on_version = version
        async with client(server) as to:
            for _ in range(2):
                assert await to.server_version() == "v1.99.0"
    assert said == [None, None]


async def test_an_object_that_cannot_be_kept_is_left_out_and_stops_nothing():
    def keep(thing):
        if thing.labels:
            raise msgspec.ValidationError("Expected `str`, got `int`")
        return thing

    def bad(name, version):
        thing = config_map(name, version)
        thing["metadata"]["labels"] = {"bad": "yes"}
        return thing

    async with hostile() as server:
        server.on_list = listing(config_map("a"), bad("b", 2))
        server.on_watch = saying(
            server,
            event("ADDED", bad("c", 11)),
            event("MODIFIED", bad("a", 12)),
            event("ADDED", config_map("d", 13)),
        )
        async with following(server, keep=keep) as informer:
            await eventually(lambda: names_in(informer) == {"a", "d"})
            assert informer.skipped == 3
            assert informer.error is None


async def test_blocks_of_calico_are_dropped_when_discovery_lacks_them_and_not_while_there_is_none(monkeypatch):
    monkeypatch.setattr(prefixes, "_DISCOVERY_PERIOD_S", 0.05)
    monkeypatch.setattr(prefixes, "_RETRY_S", 0.05)
    home = "/apis/crd.projectcalico.org/v1"
    served = resource_list("ipamblocks", version="crd.projectcalico.org/v1")
    empty = {"metadata": {"resourceVersion": "10"}, "items": []}

    async with hostile() as server, client(server) as to:

        def answers(**more):
            serving(server, **more)
            server.on_watch = server.silence

        answers(
            **{home: served, f"{home}/ipamblocks": empty | {"kind": "IPAMBlockList"}},
            **{"/api/v1/nodes": empty | {"kind": "NodeList"}},
        )
        nodes = Informer(to, resources.NODES)
        source = prefixes.PrefixSource(to, nodes, objects.ImportLimits(), lambda: None)
        tasks = [asyncio.create_task(part.run()) for part in (nodes, source)]
        try:
            await asyncio.wait_for(source.wait_synced(), 10)
            assert source.blocks is not None
            answers()
            await eventually(lambda: isinstance(source.error, errors.NotFound))
            await asyncio.sleep(0.5)
            assert source.blocks is not None
            answers(**{"/apis": OTHERS})
            await eventually(lambda: source.blocks is None)
            await eventually(lambda: source.error is None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
