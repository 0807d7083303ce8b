"""The queue of federated Services: fair between causes, one turn at a time for a key, bursts become one turn."""

from __future__ import annotations

import asyncio

import pytest
from clustermeshd.controller.queue import FairQueue
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def at_once(queue: FairQueue[str]) -> str:
    return await asyncio.wait_for(queue.take(), 1)


async def nothing(queue: FairQueue[str]) -> None:
    taking = asyncio.create_task(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not taking.done()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)


async def test_one_who_floods_delays_its_own_keys_and_nobody_elses():
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.put("flood", f"f{number}")
    queue.put("quiet", "q")
    assert {await at_once(queue), await at_once(queue)} == {"f0", "q"}


async def test_a_key_waits_once_however_often_and_by_whomever_it_was_caused():
    queue: FairQueue[str] = FairQueue()
    for cause in ("west", "east", "west"):
        queue.put(cause, "web")
    assert await at_once(queue) == "web"
    assert len(queue) == 0
    await nothing(queue)


async def test_a_key_is_with_one_worker_at_a_time_and_what_came_meanwhile_is_not_lost():
    queue: FairQueue[str] = FairQueue()
    queue.put("west", "web")
    assert await at_once(queue) == "web"
    queue.put("east", "web")
    await nothing(queue)
    queue.done("web")
    assert await at_once(queue) == "web"


async def test_a_burst_after_a_turn_becomes_one_more_turn_when_the_pause_is_over():
    clock = Clock()
    queue: FairQueue[str] = FairQueue(pause_s=10.0, clock=clock)
    queue.put("west", "web")
    queue.done(await at_once(queue))
    for _ in range(50):
        queue.put("west", "web")
    clock.now += 9.9
    await nothing(queue)
    assert len(queue) == 1
    clock.now += 0.2
    assert await at_once(queue) == "web"
    queue.done("web")
    await nothing(queue)


async def test_a_key_that_rests_holds_back_no_other():
    clock = Clock()
    queue: FairQueue[str] = FairQueue(pause_s=10.0, clock=clock)
    queue.put("west", "web")
    queue.done(await at_once(queue))
    queue.put("west", "web")
    queue.put("west", "shop")
    assert await at_once(queue) == "shop"


async def test_one_who_waits_is_woken_by_the_end_of_a_rest():
    queue: FairQueue[str] = FairQueue(pause_s=0.05)
    queue.put("west", "web")
    queue.done(await at_once(queue))
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.put("west", "web")
    assert await asyncio.wait_for(waiting, 5) == "web"


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_each_worker_gets_a_key_of_its_own_and_one_that_gives_up_takes_none_along(gone: int):
    queue: FairQueue[str] = FairQueue()
    workers = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    workers[gone].cancel()
    await asyncio.gather(workers[gone], return_exceptions=True)
    queue.put("west", "web")
    queue.put("west", "shop")
    others = [worker for place, worker in enumerate(workers) if place != gone]
    assert set(await asyncio.wait_for(asyncio.gather(*others), 5)) == {"web", "shop"}


@given(st.lists(st.tuples(st.sampled_from(["west", "east", "self"]), st.integers(0, 5)), max_size=40), st.data())
async def test_every_key_that_was_caused_gets_a_turn_after_it_in_whatever_order(
    caused: list[tuple[str, int]], data: st.DataObject
):
    queue: FairQueue[str] = FairQueue()
    owed: set[str] = set()
    working: list[str] = []

    async def turn() -> None:
        if working and (not len(queue) or data.draw(st.booleans())):
            queue.done(working.pop(data.draw(st.integers(0, len(working) - 1))))
        elif len(queue):
            working.append(await at_once(queue))
            owed.discard(working[-1])

    for cause, number in caused:
        queue.put(cause, str(number))
        owed.add(str(number))
        await turn()
    while len(queue) or working:
        await turn()
        assert len(set(working)) == len(working)
    assert not owed
