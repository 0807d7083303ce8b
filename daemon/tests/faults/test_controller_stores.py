"""Faults of API servers and their stores, ours included: nothing is lost, nothing is written twice, all comes back."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustermesh_lab.kubeapi import ApiError
from controller_world import CRDS, Cluster, World, backing, install, is_served, node, service, slice_of, until

pytestmark = pytest.mark.faults
pytest_plugins = ("controller_fixtures",)


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ("pause", 6),
        pytest.param("kill", 45, marks=pytest.mark.slow),
        pytest.param("pause", 45, marks=pytest.mark.slow),
    ],
)
def test_F1_while_our_api_server_is_down_nothing_is_lost_or_wasted_and_all_is_caught_up_in_10_s(
    world: World, fault: str, seconds: int
) -> None:
    world.join("west", "south")
    controller = world.start()
    world.settle()
    versions = world.versions()
    plane = world.east.plane
    cpu, logged = controller.cpu_s(), len(controller.log.splitlines())
    getattr(plane, fault)("apiserver")
    try:
        world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
        time.sleep(seconds)
        assert controller.cpu_s() - cpu < 0.05 * seconds + 0.5
        assert len(controller.log.splitlines()) - logged < 20 + seconds
    finally:
        plane.start("apiserver") if fault == "kill" else plane.resume("apiserver")
    assert until(lambda: "10.2.0.44" in world.addresses("reviews"), 30) <= 10
    world.settle()
    assert versions.items() <= world.versions().items(), "what is right is not written again"
    assert controller.is_running


def test_F4_controller_that_slept_through_churn_and_compaction_finds_what_went_and_rewrites_nothing_else(
    world: World,
) -> None:
    world.join("west", "south")
    controller = world.start()
    world.settle()
    before = {name: version for name, version in world.versions().items() if "west" not in name}
    west = world.peers["west"]
    controller.pause()
    for number in range(30):
        west.put(*backing("reviews", "reviews-late", f"10.2.0.{50 + number}"))
    west.delete(*backing("only-west", "own"))
    west.put(node("n2", "10.2.9.0/24", "192.168.2.9"))
    west.plane.compact()
    west.plane.restart("apiserver")
    controller.resume()
    assert world.settle() <= 10
    assert before.items() <= world.versions().items()
    assert world.addresses("of-west") == []


@pytest.mark.slow
def test_F39_store_of_a_peer_that_is_killed_at_random_moments_costs_nothing(world: World) -> None:
    world.join("west", "south")
    world.start()
    world.settle()
    since, versions = world.east.version(), world.versions()
    west = world.peers["west"].plane
    chance = random.Random(39)
    for _ in range(3):
        west.kill("etcd")
        time.sleep(chance.uniform(0.1, 1.0))
        west.start("etcd")
        time.sleep(chance.uniform(0.1, 1.0))
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
    world.settle()
    world.never_without(since, "of-west", "10.2.0.9")
    assert versions.items() <= world.versions().items()


@contextlib.contextmanager
def stopped(cluster: Cluster) -> Iterator[Path]:
    """The store's directory while nobody runs on it."""
    cluster.plane.stop("apiserver")
    cluster.plane.stop("etcd")
    try:
        yield cluster.plane.directory / "etcd"
    finally:
        cluster.plane.start()
        for kind in ("remotenodes", "remoteclusterconfigurations") if cluster.name == "east" else ():
            until(lambda k=kind: is_served(cluster, f"/apis/clustermesh.io/v1alpha1/{k}"), 30)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["west", "east"])
def test_F39_store_that_was_restored_from_the_past_is_believed_and_its_past_put_right(
    world: World, name: str, tmp_path: Path
) -> None:
    world.join("west", "south")
    world.start()
    world.settle()
    cluster = world.east if name == "east" else world.peers[name]
    with stopped(cluster) as store:
        shutil.copytree(store, tmp_path / "backup")
    world.settle(40)
    number = cluster.number
    for n in range(20):
        cluster.put(*backing("reviews", "reviews-late", f"10.{number}.0.{50 + n}"))
    cluster.delete(*backing("reviews", f"reviews-{number}"))
    world.settle()
    with stopped(cluster) as store:
        shutil.rmtree(store)
        shutil.copytree(tmp_path / "backup", store)
    world.settle(60)
    assert f"10.{number}.0.5" in world.addresses("reviews")


@pytest.mark.slow
def test_F39_cluster_that_was_made_anew_at_the_same_address_is_taken_for_another_one(world: World) -> None:
    world.join("west", "south")
    world.start()
    world.settle()
    west = world.peers["west"]
    old = world.east.get("RemoteNode", "west.n1")["spec"]
    with stopped(west) as store:
        shutil.rmtree(store)
    west.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    west.put(node("n1", "10.2.0.0/24", "192.168.2.1"), *backing("reviews", "reviews-2", "10.2.0.5"))
    world.settle(60)
    uid = west.get("Namespace", "kube-system")["metadata"]["uid"]
    assert uid != old["clusterID"]
    until(lambda: world.east.get("RemoteNode", "west.n1")["spec"]["clusterID"] == uid, 40)
    until(lambda: world.east.get("RemoteClusterConfiguration", "west")["status"]["clusterID"] == uid, 10)
    assert world.east.get("RemoteNode", "west.n1")["spec"]["vtepMAC"] != old["vtepMAC"]


def test_F40_services_that_come_late_flip_their_type_or_go_are_followed(world: World) -> None:
    """A kind of Service at a time; each ends where the model says, whatever it was before."""
    world.join("west", "south")
    world.east.put(service("early", selector='app == "late"'))
    world.start()
    world.settle()
    for peer in world.peers.values():
        peer.put(slice_of("late", f"10.{peer.number}.0.70"))  # slices before their Service
    world.settle()
    assert world.addresses("early") == []
    for peer in world.peers.values():
        peer.put(service("late", {"app": "late"}))
    world.settle()
    assert world.addresses("early") == ["10.3.0.70", "10.2.0.70"] or len(world.addresses("early")) == 2
    for spec in (
        {"selector": {"app": "x"}},
        {"type": "NodePort"},
        {"type": "ExternalName", "externalName": "example.org"},
        {"clusterIP": "None"},
        {},
    ):
        world.east.delete(service("early"))
        federated = service("early", selector='app == "late"')
        federated["spec"] |= spec
        world.east.put(federated)
        world.settle()
        is_federated = "selector" not in spec and "externalName" not in spec
        assert len(world.addresses("early")) == (2 if is_federated else 0), spec
    world.peers["west"].put(service("late", {"app": "other"}))
    world.settle()
    assert world.addresses("early") == ["10.3.0.70"]
    world.peers["south"].delete(service("late"), slice_of("late"))
    world.settle()
    world.east.delete(service("early"))
    until(lambda: not [e for e in world.endpoints() if "early" in e.service], 5)


def test_F40_namespace_that_a_peer_does_not_have_yet_is_read_when_it_comes(world: World) -> None:
    name = f"late-{time.monotonic_ns()}"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    federated = service("early", selector='app == "late"')
    federated["metadata"]["namespace"] = name
    world.east.put(space, federated)
    world.join("west", "south")
    world.start()
    world.settle()
    made = backing("late", "late", "10.2.0.70")
    for document in made:
        document["metadata"]["namespace"] = name
    world.peers["west"].put(space, *made)

    def found() -> list[str]:
        pieces = world.east.all("EndpointSlice", name)
        return [a for p in pieces for e in p["endpoints"] for a in e["addresses"]]

    until(lambda: found() == ["10.2.0.70"], 10)
    world.peers["west"].delete(*made)
    until(lambda: found() == [], 10)
    world.east.delete(federated)


def removed(world: World, file: Path) -> None:
    world.east.delete({"kind": "CustomResourceDefinition", "metadata": {"name": f"{file.stem}.clustermesh.io"}})
    until(lambda: not _is_there(world, file.stem), 20)


def _is_there(world: World, plural: str) -> bool:
    try:
        world.east.get("CustomResourceDefinition", f"{plural}.clustermesh.io")
    except ApiError:
        return False
    return True


@pytest.mark.slow
def test_F41_without_the_kind_of_remote_nodes_services_are_federated_and_nodes_come_with_it(world: World) -> None:
    file = CRDS / "remotenodes.yaml"
    removed(world, file)
    try:
        world.join("west", "south")
        world.start()
        until(lambda: len(world.addresses("reviews")) == 6, 15, world.logs)
    finally:
        install(world.east, file)
    until(lambda: world.nodes().keys() == {"west.n1", "south.n1"}, 40)
    world.settle()


@pytest.mark.slow
def test_F41_kind_of_configurations_removed_under_a_running_controller_comes_back_by_itself(world: World) -> None:
    file = CRDS / "remoteclusterconfigurations.yaml"
    world.join("west", "south")
    controller = world.start()
    world.settle()
    since = world.east.version()
    removed(world, file)  # and every object of it
    try:
        until(lambda: world.addresses("of-west") == [], 20)
        world.east.put(*backing("reviews", "reviews-new", "10.1.0.44"))
        until(lambda: "10.1.0.44" in world.addresses("reviews"), 5)
    finally:
        install(world.east, file)
    world.join("west", "south")
    world.settle(120)
    world.never_without(since, "reviews", "10.1.0.5")
    assert controller.is_running
