"""The elector against a real API server: never two leaders, whatever stalls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time

import pytest
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.kube.lease import Elector, NotLeading

FAST = {"lease_duration_s": 3, "renew_deadline_s": 2, "retry_period_s": 0.3}


class Candidate:
    """An elector whose work records when it ran."""

    def __init__(self, client, identity, name, **durations):
        self.identity = identity
        self.reigns = []
        self.elector = Elector(client, name=name, namespace="default", identity=identity, **(FAST | durations))
        self.task = asyncio.create_task(self.elector.run(self._lead))

    async def _lead(self):
        reign = [time.monotonic(), None]
        self.reigns.append(reign)
        try:
            while True:
                self.elector.check()
                await asyncio.sleep(0.02)
        finally:
            reign[1] = time.monotonic()

    async def end(self):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@contextlib.asynccontextmanager
async def candidates(control_plane, name, *identities):
    access = await from_file(control_plane.kubeconfig)
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for identity in identities:
            client = await stack.enter_async_context(Client(access, user_agent="t", read_timeout_s=1))
            made.append(Candidate(client, identity, name))
            stack.push_async_callback(made[-1].end)
        yield made


def overlap(*many):
    spans = sorted((r[0], r[1] or time.monotonic()) for c in many for r in c.reigns)
    return [(a, b) for a, b in itertools.pairwise(spans) if b[0] < a[1]]


async def until(check, timeout_s=15):
    async with asyncio.timeout(timeout_s):
        while not check():  # noqa: ASYNC110  # what is waited for happens in another process
            await asyncio.sleep(0.05)


async def test_one_of_two_leads_and_a_clean_end_hands_over_at_once(api):
    async with candidates(api, "handover", "a", "b") as (a, b):
        await until(lambda: a.reigns or b.reigns)
        first, second = (a, b) if a.reigns else (b, a)
        await asyncio.sleep(1)
        assert not second.reigns
        with pytest.raises(NotLeading):
            second.elector.check()
        began = time.monotonic()
        await first.end()
        await until(lambda: second.reigns)
        assert time.monotonic() - began < FAST["lease_duration_s"], "a released Lease need not expire"
        assert overlap(a, b) == []


async def test_a_leader_that_cannot_renew_has_stopped_before_the_next_begins(fragile_api):
    async with candidates(fragile_api, "stall", "a", "b") as (a, b):
        await until(lambda: a.reigns or b.reigns)
        await asyncio.to_thread(fragile_api.pause, "apiserver")
        first = a if a.reigns else b
        paused = time.monotonic()
        await until(lambda: first.reigns[-1][1] is not None)
        stopped_after = first.reigns[-1][1] - paused
        await asyncio.to_thread(fragile_api.resume, "apiserver")
        await until(lambda: len(a.reigns) + len(b.reigns) > 1)
        assert stopped_after < FAST["lease_duration_s"]
        assert overlap(a, b) == []


async def test_a_blocked_leader_finds_its_fence_closed(api):
    async with candidates(api, "blocked", "a") as (a,):
        await until(lambda: a.reigns)
        a.elector.check()
        time.sleep(FAST["renew_deadline_s"] + 0.2)  # noqa: ASYNC251  # the whole loop stands still, as under SIGSTOP
        with pytest.raises(NotLeading):
            a.elector.check()


async def test_work_that_fails_ends_the_election_with_its_error(api):
    async def fail():
        raise RuntimeError("work")

    access = await from_file(api.kubeconfig)
    async with Client(access, user_agent="t") as client:
        elector = Elector(client, name="failing", namespace="default", identity="x", **FAST)
        with pytest.raises(RuntimeError, match="work"):
            async with asyncio.timeout(10):
                await elector.run(fail)
        assert not elector.is_leader
