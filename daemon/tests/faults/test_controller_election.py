"""Two controllers: one writes at any time, whatever stops, jumps or is forbidden; and equal ones never fight."""

from __future__ import annotations

import json
import textwrap
import time
from pathlib import Path

import pytest
from controller_process import Controller
from controller_world import World, backing, until

pytestmark = pytest.mark.faults
pytest_plugins = ("controller_fixtures",)
ELECTION = ("--leader-election",)


def leads(controller: Controller) -> bool:
    return controller.metric("clustermesh_controller_leader ") == 1


def two(
    world: World, groups: tuple[str, ...] = ("system:masters",), **environment: str
) -> tuple[Controller, Controller]:
    """The leader and the one that stands by."""
    first = world.start(*ELECTION, identity="first", groups=groups, **environment)
    until(lambda: leads(first), 20)
    second = world.start(*ELECTION, identity="second", groups=groups, **environment)
    world.settle()
    assert not leads(second)
    return first, second


@pytest.mark.slow
def test_F19_stopped_leader_is_replaced_within_15_s_and_writes_nothing_when_it_wakes_up(world: World) -> None:
    world.join("west", "south")
    first, second = two(world)
    since = world.east.version()
    first.pause()
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
    assert until(lambda: "10.2.0.44" in world.addresses("reviews"), 30) <= 15
    assert leads(second)
    before = world.writes("first")
    first.resume()
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.45"))
    world.settle()
    until(lambda: not leads(first), 10)
    assert leads(second)
    assert world.writes("first") == before
    world.never_without(since, "reviews", "10.1.0.5", "10.2.0.5", "10.3.0.5")
    second.stop()
    until(lambda: leads(first), 15, "a Lease that was given back is taken at once")


@pytest.mark.slow
def test_F19_leader_that_may_not_renew_its_lease_stops_writing_before_the_next_one_begins(world: World) -> None:
    rights = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "everything"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "everything"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "everything"},
        "subjects": [{"kind": "User", "name": name} for name in ("first", "second")],
    }
    world.east.put(rights, binding)
    world.join("west", "south")
    first, second = two(world, groups=())
    verbs = ["get", "list", "watch", "create", "patch", "delete"]
    lease = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]}
    others = [
        {"apiGroups": [group], "resources": ["*"], "verbs": verbs}
        for group in ("", "discovery.k8s.io", "clustermesh.io", "networking.k8s.io")
    ]
    limited = {**rights, "metadata": {"name": "limited"}, "rules": [lease, *others]}
    bound = {**binding, "metadata": {"name": "limited"}, "subjects": [{"kind": "User", "name": "first"}]}
    bound["roleRef"] = {**binding["roleRef"], "name": "limited"}
    world.east.put(limited, bound)
    world.east.put({**binding, "subjects": [{"kind": "User", "name": "second"}]})
    until(lambda: leads(second), 30)
    until(lambda: not leads(first), 1, "two leaders at once")
    before = world.writes("first")
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
    world.settle()
    assert world.writes("first") == before
    world.east.put(binding)
    second.stop()
    until(lambda: leads(first), 20, first.log[-2000:])
    assert first.is_running, "a right that is missing for a while is no reason to end"
    assert second.process.returncode == 0


@pytest.mark.slow
def test_F20_two_controllers_without_election_agree_and_neither_writes_when_nothing_changes(world: World) -> None:
    world.join("west", "south")
    both = [world.start("--no-leader-election", identity=name) for name in ("first", "second")]
    world.settle()
    until(lambda: world.condition("south", "Synced")[0] == "True", 10)
    versions, before = None, None
    while versions != world.versions():
        versions, before = world.versions(), world.writes("first", "second")
        time.sleep(5.5)  # one period of the status
    idle = world.writes("first", "second")[len(before or ()) :]
    assert len(idle) == 0, idle
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
    world.settle()
    time.sleep(1)
    changed = world.writes("first", "second")[len(before or ()) :]
    slices = [w for w in changed if "endpointslices" in w]
    assert 1 <= len(slices) <= 4, changed
    assert all(controller.is_running for controller in both)


@pytest.mark.slow
def test_F20_two_versions_with_election_write_as_one(world: World, tmp_path: Path) -> None:
    """The other version packs slices otherwise, so that each would undo what the other wrote."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import clustermeshd.plan.packing as packing\npacking.SLICE_SIZE = 1\n")
    world.join("west", "south")
    first = world.start(*ELECTION, identity="this")
    until(lambda: leads(first), 20)
    second = world.start(*ELECTION, identity="other", PYTHONPATH=str(other))
    world.settle()
    time.sleep(6)
    before = world.versions()
    time.sleep(20)
    assert world.versions() == before
    assert world.writes("other") == []
    since = world.east.version()
    first.stop()
    until(lambda: leads(second), 15)
    world.settle()
    world.never_without(since, "reviews", "10.1.0.5", "10.2.0.5", "10.3.0.5")


CLOCK = textwrap.dedent("""
    import datetime, itertools, time
    jumps = itertools.cycle((0, 600, -600, 86400, -3))
    real = time.time
    time.time = lambda: real() + next(jumps)
    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(seconds=next(jumps))
    datetime.datetime = Jumping
""")


@pytest.mark.slow
def test_F30_leader_whose_clock_jumps_at_every_look_leads_on_and_federates(world: World, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    world.join("west", "south")
    first, second = two(world, PYTHONPATH=str(tmp_path))
    lease = world.east.get("Lease", "clustermesh-controller", "default")["spec"]
    since = world.east.version()
    time.sleep(5)
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
    world.settle()
    now = world.east.get("Lease", "clustermesh-controller", "default")["spec"]
    assert (now["holderIdentity"], now.get("leaseTransitions")) == ("first", lease.get("leaseTransitions"))
    assert now["renewTime"] != lease["renewTime"], json.dumps(now)
    assert leads(first)
    assert not leads(second)
    world.never_without(since, "reviews", "10.1.0.5", "10.2.0.5", "10.3.0.5")
