"""The client and the informer against a real API server, faults included."""

from __future__ import annotations

import asyncio
import contextlib
import json

import msgspec
import pytest
from clustermeshd.kube import errors, objects, resources
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.kube.informer import Informer
from clustermeshd.kube.writer import Writer
from clustermeshd.model import names

CONFIG_MAPS = resources.Resource("", "v1", "configmaps", "ConfigMap", objects.Object)


@contextlib.asynccontextmanager
async def client(control_plane, user=None):
    access = await from_file(control_plane.client(user) if user else control_plane.kubeconfig)
    async with Client(access, user_agent="test", read_timeout_s=5) as made:
        yield made


@contextlib.asynccontextmanager
async def running(informer):
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(20):
            await informer.wait_synced()
        yield informer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def eventually(check, timeout_s=10.0):
    async with asyncio.timeout(timeout_s):
        while not check():  # noqa: ASYNC110  # what is waited for happens in another process
            await asyncio.sleep(0.02)


def config_map(name, namespace="default", **labels):
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}}


async def put(to, name, **labels):
    await to.apply(CONFIG_MAPS, config_map(name, **labels), manager="test", name=name, namespace="default")


def watching(to, label, changes=None):
    return Informer(
        to,
        CONFIG_MAPS,
        label_selector=f"t={label}",
        on_change=None if changes is None else lambda c: changes.append((c.kind, (c.new or c.old).metadata.name)),
        max_backoff_s=0.5,
    )


async def test_apply_get_list_and_delete(api):
    async with client(api) as to:
        await put(to, "one", t="crud")
        assert (await to.get(CONFIG_MAPS, "one", "default")).labels["t"] == "crud"
        found, version = await to.list(CONFIG_MAPS, label_selector="t=crud")
        assert [o.key for o in found] == ["default/one"]
        assert version
        assert await to.delete(CONFIG_MAPS, "one", "default") is True
        assert await to.delete(CONFIG_MAPS, "one", "default") is False
        assert (await to.server_version()).startswith("v1.")


async def test_a_list_is_read_in_pages(api):
    async with client(api) as to:
        await asyncio.gather(*(put(to, f"page-{i}", t="pages") for i in range(25)))
        pages = [page async for page in to.pages(CONFIG_MAPS, label_selector="t=pages", limit=10)]
        assert [len(page.items) for page in pages] == [10, 10, 5]
        found, _ = await to.list(CONFIG_MAPS, label_selector="t=pages", limit=10)
        assert len({o.key for o in found}) == 25


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (lambda to: to.get(CONFIG_MAPS, "none", "default"), errors.NotFound),
        (lambda to: to.delete(CONFIG_MAPS, "kube-root-ca.crt", "none-such", uid="x"), None),
        (lambda to: to.create(CONFIG_MAPS, {"metadata": {"name": "B A D"}}, "default"), errors.Rejected),
    ],
)
async def test_refusals_become_the_errors_callers_know(api, request_, expected):
    async with client(api) as to:
        if expected is None:
            assert await request_(to) is False
            return
        with pytest.raises(expected):
            await request_(to)


async def test_two_creates_conflict_and_a_stale_replace_does(api):
    async with client(api) as to:
        await put(to, "twice", t="conflict")
        with pytest.raises(errors.Conflict):
            await to.create(CONFIG_MAPS, config_map("twice"), "default")
        stale = {"metadata": {"name": "twice", "namespace": "default", "resourceVersion": "1"}}
        with pytest.raises(errors.Conflict):
            await to.replace(CONFIG_MAPS, stale, "twice", "default")


async def test_an_identity_without_rights_is_forbidden(api):
    async with client(api, "nobody") as to:
        with pytest.raises(errors.Forbidden):
            await to.list(resources.NODES)


async def test_an_informer_follows_and_resumes(api):
    changes = []
    async with client(api) as to:
        await put(to, "a", t="follow")
        async with running(watching(to, "follow", changes)) as informer:
            assert set(informer.store) == {"default/a"}
            await put(to, "b", t="follow")
            await put(to, "a", t="follow", more="x")
            await to.delete(CONFIG_MAPS, "b", "default")
            await eventually(lambda: len(changes) == 4)
            assert changes == [("added", "a"), ("added", "b"), ("modified", "a"), ("deleted", "b")]
            assert informer.error is None


async def test_many_objects_are_listed_and_none_is_told_twice(api):
    changes = []
    async with client(api) as to:
        await asyncio.gather(*(put(to, f"many-{i}", t="many") for i in range(60)))
        async with running(watching(to, "many", changes)) as informer:
            assert len(informer.store) == 60
            await asyncio.sleep(0.3)
            assert len(changes) == 60


async def test_what_was_deleted_while_nobody_watched_surfaces_after_compaction(fragile_api, caplog):
    changes = []
    caplog.set_level("DEBUG", logger="clustermeshd.kube.informer")
    async with client(fragile_api) as to:
        for name in ("stays", "goes"):
            await put(to, name, t="gap")
        informer = watching(to, "gap", changes)
        async with running(informer):
            assert len(changes) == 2
        await to.delete(CONFIG_MAPS, "goes", "default")
        await put(to, "comes", t="gap")
        await asyncio.to_thread(fragile_api.compact)
        await asyncio.to_thread(fragile_api.restart, "apiserver")
        assert set(informer.store) == {"default/stays", "default/goes"}
        async with running(informer):
            await eventually(lambda: set(informer.store) == {"default/stays", "default/comes"}, 30)
        assert "version expired" in caplog.text
        assert changes[2:] == [("deleted", "goes"), ("added", "comes")], "what did not change is not told again"


async def test_a_killed_api_server_is_survived_and_state_is_kept(fragile_api):
    async with client(fragile_api) as to:
        await put(to, "kept", t="kill")
        async with running(watching(to, "kill")) as informer:
            await asyncio.to_thread(fragile_api.kill, "apiserver")
            await eventually(lambda: informer.error is not None)
            assert isinstance(informer.error, errors.Unreachable)
            assert set(informer.store) == {"default/kept"}
            await asyncio.to_thread(fragile_api.start, "apiserver")
            await eventually(lambda: informer.error is None, 30)
            await put(to, "later", t="kill")
            await eventually(lambda: "default/later" in informer.store, 15)


async def test_a_kind_that_is_not_served_counts_as_empty_until_it_appears(api):
    unknown = resources.Resource("nobody.example", "v1", "things", "Thing", objects.Object, optional=True)
    async with client(api) as to, running(Informer(to, unknown)) as informer:
        assert informer.served is False
        assert dict(informer.store) == {}
        assert informer.error is None


async def test_an_object_that_does_not_decode_is_left_out_and_the_rest_stays(api):
    class Strict(objects.Object, frozen=True):
        data: dict[str, str] | None = None

    class Number(objects.Object, frozen=True):
        data: dict[str, int] | None = None  # what a peer of another version might send

    strict = resources.Resource("", "v1", "configmaps", "ConfigMap", Number)
    async with client(api) as to:
        await to.apply(
            CONFIG_MAPS,
            {**config_map("bad", t="bad"), "data": {"x": "text"}},
            manager="t",
            name="bad",
            namespace="default",
        )
        await put(to, "good", t="bad")
        async with running(Informer(to, strict, label_selector="t=bad")) as informer:
            assert set(informer.store) == {"default/good"}
            found, _ = await to.list(strict, label_selector="t=bad")
            assert [o.metadata.name for o in found] == ["good"]


async def test_a_writer_writes_only_differences_and_removes_only_its_own(api):
    ours = {names.MANAGED_BY: names.MANAGER}
    wanted = objects.Endpoints(
        metadata=objects.Metadata(name="w", namespace="default", labels=ours),
        subsets=(
            objects.EndpointSubset(
                addresses=(objects.EndpointAddress(ip="10.0.0.1"),), ports=(objects.EndpointPort(name="p", port=80),)
            ),
        ),
    )
    async with client(api) as to:
        writer = Writer(to, "test")
        assert await writer.ensure(resources.ENDPOINTS, wanted, actual=None) == "written"
        stored = await to.get(resources.ENDPOINTS, "w", "default")
        assert await writer.ensure(resources.ENDPOINTS, wanted, actual=stored) == "unchanged"
        changed = msgspec.structs.replace(wanted, subsets=())
        assert await writer.ensure(resources.ENDPOINTS, changed, actual=stored) == "written"
        await put(to, "foreign", t="w")
        foreign = await to.get(CONFIG_MAPS, "foreign", "default")
        assert await writer.remove(CONFIG_MAPS, foreign) == "kept"
        assert await writer.remove(resources.ENDPOINTS, stored) == "removed"
        assert writer.written == 3
        assert json.loads(json.dumps({"left": (await to.get(CONFIG_MAPS, "foreign", "default")).key}))
        with pytest.raises(errors.NotFound):
            await to.get(resources.ENDPOINTS, "w", "default")


async def test_a_write_of_which_only_metadata_is_read_is_answered_with_no_more(api, monkeypatch):
    answers = []

    async def request(self, *arguments, **options):
        answers.append(await whole(self, *arguments, **options))
        return answers[-1]

    whole = Client.request
    monkeypatch.setattr(Client, "request", request)
    wanted = objects.Endpoints(metadata=objects.Metadata(name="bare", namespace="default"), subsets=())
    async with client(api) as to:
        writer = Writer(to, "test")
        version = await writer.write(resources.ENDPOINTS, wanted, actual=None)
        actual = objects.Object(metadata=msgspec.structs.replace(wanted.metadata, resource_version=version))
        await writer.replace(resources.ENDPOINTS, wanted, actual=actual, annotations=())
        await to.get(resources.ENDPOINTS, "bare", "default")
    assert [json.loads(answer)["kind"] for answer in answers] == [*["PartialObjectMetadata"] * 2, "Endpoints"]


async def test_what_is_replaced_keeps_what_others_added_and_is_applied_where_somebody_wrote_in_between(api):
    def wanted(ip: str, **annotations: str) -> objects.Endpoints:
        meta = objects.Metadata(
            name="r", namespace="default", labels={names.MANAGED_BY: names.MANAGER}, annotations=annotations
        )
        return objects.Endpoints(
            metadata=meta, subsets=(objects.EndpointSubset(addresses=(objects.EndpointAddress(ip=ip),)),)
        )

    async with client(api) as to:
        writer = Writer(to, "test")

        async def replace(desired, actual):
            version = await writer.replace(resources.ENDPOINTS, desired, actual=actual, annotations=("a", "b"))
            made = await to.get(resources.ENDPOINTS, "r", "default")
            assert made.metadata.resource_version == version
            return made

        first = await replace(wanted("10.0.0.1", a="1", b="1"), None)
        theirs = {"metadata": {"labels": {"team": "x"}, "annotations": {"note": "y"}, "finalizers": ["example.org/z"]}}
        await to.apply(resources.ENDPOINTS, theirs, manager="somebody", name="r", namespace="default")
        written = writer.written
        second = await replace(wanted("10.0.0.2", a="2", b="1"), first)
        assert writer.written == written + 2  # refused, since it is another version; then applied
        third = await replace(wanted("10.0.0.3", a="3"), second)
        assert writer.written == written + 3
        assert [s.addresses[0].ip for one in (second, third) for s in one.subsets] == ["10.0.0.2", "10.0.0.3"]
        assert third.annotations == {"note": "y", "a": "3"}
        assert third.labels == {"team": "x", names.MANAGED_BY: names.MANAGER}
        assert third.metadata.finalizers == ("example.org/z",)
        none = {"metadata": {"name": "r"}, "subsets": []}
        await to.replace(resources.ENDPOINTS, none, "r", "default")
        await to.delete(resources.ENDPOINTS, "r", "default")
        assert (await replace(wanted("10.0.0.4"), third)).metadata.uid != third.metadata.uid
        await to.delete(resources.ENDPOINTS, "r", "default")


async def test_a_writer_without_its_lease_writes_nothing(api):
    def fence():
        raise errors.Conflict("not leading")

    thing = objects.Object(metadata=objects.Metadata(name="fenced", namespace="default"))
    async with client(api) as to:
        writer = Writer(to, "test", fence=fence)
        with pytest.raises(errors.Conflict):
            await writer.ensure(CONFIG_MAPS, thing, actual=None)
        with pytest.raises(errors.NotFound):
            await to.get(CONFIG_MAPS, "fenced", "default")
