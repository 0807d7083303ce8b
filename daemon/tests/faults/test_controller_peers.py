"""Faults of the line to a peer, and of the peer's API server: the other clusters never notice."""

from __future__ import annotations

import pytest
from controller_world import World, backing, until

pytestmark = pytest.mark.faults
pytest_plugins = ("controller_fixtures",)


def test_F2_controller_that_starts_while_a_peer_is_down_serves_the_others_and_keeps_its_state(world: World) -> None:
    world.join("west", "south")
    first = world.start()
    world.settle()
    first.stop()
    kept = {name: version for name, version in world.versions().items() if "west" in name}
    since = world.east.version()
    world.relays["west"].cut()
    world.peers["south"].put(*backing("reviews", "reviews-late", "10.3.0.44"))
    world.east.put(*backing("reviews", "reviews-new", "10.1.0.44"))
    second = world.start()
    world.settle(10)
    until(lambda: world.condition("west", "Connected") == ("False", "Unreachable"), 10)
    assert world.condition("south", "Synced") == ("True", "InSync")
    world.never_without(since, "reviews", "10.2.0.5", "10.2.0.6", "10.3.0.5", "10.1.0.5")
    world.never_without(since, "of-west", "10.2.0.9")
    assert kept.items() <= world.versions().items()
    world.relays["west"].mend()
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 15)
    world.settle()
    assert second.is_running
