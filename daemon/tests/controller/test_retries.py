"""What failed is tried again: when the server answers again where it did not, else later each time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from clustermeshd.controller import retries
from clustermeshd.controller.retries import Retries
from clustermeshd.kube.errors import Rejected, Unreachable

GONE = Unreachable("no answer")
REFUSED = Rejected("Invalid", "no", where="here", fix="mend it")


class World:
    """A clock, a server that was last heard at some time of it, and keys that were tried again."""

    def __init__(self) -> None:
        self.now, self.heard_at = 100.0, 90.0
        self.tried: list[str] = []
        self.made: Retries[str] = Retries(self, self.tried.append, clock=lambda: self.now)

    @property
    def silence_s(self) -> float:
        return self.now - self.heard_at


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(retries, "_LOOK_S", 0.01)
    return World()


async def test_what_found_no_server_is_tried_when_that_answers_again_and_not_before(world: World) -> None:
    for key in ("a", "b"):
        assert world.made.failed(key, GONE)
    world.now = 4000.0  # however long it is away
    await asyncio.sleep(0.1)
    assert world.tried == []
    world.heard_at = 3999.0
    await asyncio.sleep(0.1)
    assert world.tried == ["a", "b"]
    assert not world.made.failed("a", GONE)  # an answer before that failure is none after it
    world.made.succeeded("b")
    await asyncio.sleep(0.1)
    assert world.tried == ["a", "b"]
    world.now, world.heard_at = 4002.0, 4001.0
    await asyncio.sleep(0.1)
    assert world.tried == ["a", "b", "a"]


async def test_what_gets_no_answer_although_others_do_is_tried_later_each_time(world: World) -> None:
    pauses = []
    for _ in range(5):
        world.made.failed("a", GONE)
        failed_at, count = world.now, len(world.tried)
        while len(world.tried) == count:
            world.now += 0.5
            world.heard_at = world.now - 0.1
            await asyncio.sleep(0.02)
        pauses.append(world.now - failed_at)
    assert pauses == [0.5, 1, 2, 4, 8]


async def test_what_succeeded_meanwhile_is_not_tried_again(world: World) -> None:
    world.made.failed("a", GONE)
    world.made.succeeded("a")
    world.now, world.heard_at = 102.0, 101.0
    await asyncio.sleep(0.1)
    assert world.tried == []
    assert world.made.failed("a", GONE)


async def test_what_is_refused_is_tried_later_each_time_and_an_absent_server_makes_that_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    loop = SimpleNamespace(call_later=lambda pause_s, *_: pauses.append(pause_s))
    monkeypatch.setattr(retries.asyncio, "get_running_loop", lambda: loop)
    for _ in range(3):
        world.made.failed("a", GONE)
    pauses.clear()
    assert [world.made.failed("a", REFUSED) for _ in range(9)] == [False] * 9
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    world.made.succeeded("a")
    assert world.made.failed("a", REFUSED)
    assert pauses[-1] == 1
