"""F33: a thousand federated Services come and go in a minute, in three clusters at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from controller_process import Controller
from controller_world import NS, Cluster, World, backing, node, service, until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]
pytest_plugins = ("controller_fixtures",)
COUNT, SECONDS = 1000, 60.0


def paced(cluster: Cluster, work: Callable[[Cluster, int], None]) -> None:
    """Does ``work`` for every number, evenly over the minute as far as the machine can."""
    started = time.monotonic()
    for number in range(COUNT):
        work(cluster, number)
        time.sleep(max(0.0, started + (number + 1) * SECONDS / COUNT - time.monotonic()))


def everywhere(world: World, work: Callable[[Cluster, int], None]) -> float:
    """Seconds that it took in all clusters, each at its own pace."""
    started = time.monotonic()
    threads = [threading.Thread(target=paced, args=(cluster, work)) for cluster in (world.east, *world.peers.values())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started


def make(cluster: Cluster, number: int) -> None:
    name = f"churn-{number}"
    if cluster.name == "east":
        cluster.put(service(f"of-{name}", selector=f'app == "{name}"'))
    address = f"10.{cluster.number + 30}.{number // 250}.{number % 250 + 1}"
    cluster.put(*backing(name, name, address))


def unmake(cluster: Cluster, number: int) -> None:
    name = f"churn-{number}"
    if cluster.name == "east":
        cluster.delete(service(f"of-{name}"))
    cluster.delete(*backing(name, name))


def settled(world: World, controller: Controller) -> float:
    """Seconds until nothing waits to be written; and then all is as the model says."""
    seconds = until(lambda: controller.metric("clustermesh_federation_in_sync ") == 1, 120)
    world.settle()
    return seconds


def test_F33_thousand_services_made_and_removed_leave_nothing_and_cost_two_writes_a_change(world: World) -> None:
    for cluster in (world.east, *world.peers.values()):
        n = cluster.number
        cluster.put(node("wide", f"10.{n + 30}.0.0/16", f"192.168.{n}.30"))
    world.join("west", "south")
    controller = world.start()
    world.settle()
    before = len(world.writes(controller.identity))
    took = everywhere(world, make)
    drained = settled(world, controller)
    made = len(world.writes(controller.identity)) - before
    backers = 3 * COUNT
    print(f"\nmade in {took:.0f} s, drained in {drained:.1f} s, {made / backers:.2f} writes per backing slice")
    assert drained <= 30
    assert made <= 2 * (backers + COUNT)

    removed_in = everywhere(world, unmake)
    drained = settled(world, controller)
    print(f"removed in {removed_in:.0f} s, drained in {drained:.1f} s")
    assert drained <= 30
    until(lambda: not [e for e in world.east.all("Endpoints") if "churn" in e["metadata"]["name"]], 30)
    assert not [p for p in world.east.all("EndpointSlice", NS) if "churn" in p["metadata"]["name"]]
    assert controller.is_running
