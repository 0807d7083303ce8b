"""F12 and staleness: a peer that is lost for long, for good, or while the controller restarts."""

from __future__ import annotations

import time

import pytest
from controller_world import World, backing, service, until

pytestmark = pytest.mark.faults
pytest_plugins = ("controller_fixtures",)
SOON = {"staleness": {"policy": "NotReady", "afterSeconds": 2}}


def asking(name: str, staleness: str) -> dict:
    """A federated Service of all reviews that says what becomes of a lost cluster's endpoints."""
    made = service(name, selector='app == "reviews"')
    made["metadata"]["annotations"]["clustermesh.io/staleness"] = staleness
    return made


def of_west(world: World, name: str, *, ready: bool) -> list[str]:
    return [a for a in world.addresses(name, ready=ready) if a.startswith("10.2.")]


WEST = ["10.2.0.5", "10.2.0.6"]


@pytest.mark.slow
def test_F12_endpoints_of_a_lost_peer_wait_go_or_stay_as_each_service_asks_and_come_back(world: World) -> None:
    world.east.put(asking("keeping", "keep"), asking("dropping", "drop:2s"), asking("patient", "not-ready:1h"))
    world.join("west", "south", **SOON)
    world.start()
    world.settle()
    time.sleep(2)  # who was never seen well, at a look a second, has half a minute to be read for the first time
    since, lost = world.east.version(), time.monotonic()
    world.relays["west"].cut()
    until(lambda: of_west(world, "reviews", ready=False) == WEST, 15, lambda: f"{world.endpoints()} {world.logs()}")
    assert time.monotonic() - lost >= 2
    until(lambda: "10.2.0.5" not in world.addresses("dropping"), 5)
    time.sleep(1.5)  # whatever else follows from it would be written by now
    for name in ("keeping", "patient"):
        assert of_west(world, name, ready=True) == WEST
    assert world.addresses("of-west", ready=True) == ["10.2.0.9"], "the only ones are never taken away"
    assert world.nodes().keys() == {"west.n1", "south.n1"}, "endpoints may go, routes stay"
    for name in ("reviews", "dropping", "keeping", "patient"):
        world.never_without(since, name, "10.1.0.5", "10.3.0.5")
    world.never_without(since, "of-west", "10.2.0.9")

    back = time.monotonic()
    world.relays["west"].mend()
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 20)
    until(lambda: of_west(world, "reviews", ready=True) == WEST, 30)
    assert time.monotonic() - back >= 10, "a peer that flaps stays lost while it does"
    world.settle()


@pytest.mark.slow
def test_F12_paused_peer_is_marked_after_its_time_and_never_empties_a_service(world: World) -> None:
    world.join("west", "south", **SOON)
    world.start()
    world.settle()
    time.sleep(2)
    since = world.east.version()
    west = world.peers["west"].plane
    west.pause("apiserver")
    try:
        until(lambda: of_west(world, "reviews", ready=False) == WEST, 35)
        assert world.addresses("of-west", ready=True) == ["10.2.0.9"]
        world.east.delete(*backing("reviews", "reviews-1"))
        world.peers["south"].delete(*backing("reviews", "reviews-3"))
        until(lambda: world.addresses("reviews", ready=True) == WEST, 10, "now they are the only ones")
    finally:
        west.resume("apiserver")
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 40)
    world.settle(40)
    world.never_without(since, "of-west", "10.2.0.9")


@pytest.mark.slow
def test_F12_controller_that_starts_without_the_peer_keeps_its_slices_and_marks_them_in_time(world: World) -> None:
    world.east.put(asking("dropping", "drop:2s"))
    world.join("west", "south", **SOON)
    world.start()
    world.settle()
    world.controllers[0].stop()
    since = world.east.version()
    world.relays["west"].cut()
    world.start()
    started = time.monotonic()
    until(lambda: of_west(world, "reviews", ready=False) == WEST, 45)
    assert time.monotonic() - started + 1 >= 30, "a peer has half a minute to be read for the first time"
    until(lambda: "10.2.0.5" not in world.addresses("dropping"), 5)
    assert world.addresses("of-west", ready=True) == ["10.2.0.9"]
    assert world.nodes().keys() == {"west.n1", "south.n1"}
    world.never_without(since, "of-west", "10.2.0.9")
    world.relays["west"].mend()
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 30)
    world.settle(40)
