"""A peer that refuses, breaks off and changes what it shows: backed off from, never half believed."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustermesh_lab.pki import Authority
from controller_liar import Liar
from controller_model import Json
from controller_world import NS, World, backing, rcc, secret, until

pytestmark = pytest.mark.faults
pytest_plugins = ("controller_fixtures",)


@pytest.fixture
def liar(world: World) -> Iterator[Liar]:
    """West, as somebody in between shows it."""
    made = Liar(world.peers["west"].plane)
    yield made
    made.close()


def join(world: World, liar: Liar) -> None:
    world.east.put(secret("west", liar.kubeconfig()), rcc("west"))
    world.join("south")
    world.start()
    world.settle()


@pytest.mark.slow
def test_F3_peer_that_refuses_flaps_and_breaks_off_is_asked_seldom_and_never_half_believed(
    world: World, liar: Liar
) -> None:
    join(world, liar)
    since = world.east.version()
    for number, fault in enumerate(("429", "500", "broken"), start=20):
        liar.refuse = lambda _, status=fault: int(status) if status.isdigit() else 0
        liar.lines = 1 if fault == "broken" else None
        liar.asked.clear()
        until_s = time.monotonic() + 4
        while time.monotonic() < until_s:
            liar.break_off()
            time.sleep(0.5)
        # five kinds, each with doubling pauses: eight or so rounds if it were asked after every reset
        assert len(liar.asked) < 60, liar.asked
        world.peers["west"].put(*backing("reviews", f"reviews-{fault}", f"10.2.0.{number}"))
        world.east.put(*backing("reviews", f"reviews-{fault}", f"10.1.0.{number}"))
        until(lambda n=number: f"10.1.0.{n}" in world.addresses("reviews"), 5)
        liar.refuse, liar.lines = lambda _: 0, None
        assert world.settle() <= 12
    world.never_without(since, "reviews", "10.1.0.5", "10.2.0.5", "10.3.0.5")
    world.never_without(since, "of-west", "10.2.0.9")


@pytest.mark.slow
@pytest.mark.parametrize(("status", "reason"), [(404, "NotFound"), (200, "AnswerInvalid")])
def test_F3_peer_that_turns_into_something_else_for_longer_than_a_minute_keeps_everything_and_status_says_so(
    world: World, liar: Liar, status: int, reason: str
) -> None:
    """A proxy whose backend is down answers 404 to everything, or 200 with a document of its own."""
    join(world, liar)
    since, nodes = world.east.version(), world.nodes()
    liar.refuse = lambda _: status
    liar.break_off()
    until(lambda: world.condition("west", "Connected") == ("False", reason), 20)
    for _ in range(80):
        time.sleep(1)
        assert world.condition("west", "Connected") == ("False", reason)
        assert world.condition("west", "Synced") == ("False", "Stale")
        assert world.nodes() == nodes
    world.never_without(since, "of-west", "10.2.0.9")
    liar.refuse = lambda _: 0
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 20)
    world.settle()


def test_F8_new_credential_for_which_a_kind_is_404_does_not_take_over_until_it_is_served(
    world: World, liar: Liar
) -> None:
    join(world, liar)
    since = world.east.version()
    liar.refuse = lambda path: 404 if "/endpointslices" in path and "watch" not in path else 0
    config = json.loads(liar.kubeconfig())
    config["users"][0]["user"] = {"token": "another"}
    world.east.put(secret("west", json.dumps(config)))
    until(lambda: world.condition("west", "Connected") == ("False", "NotFound"), 15)
    time.sleep(2)
    world.never_without(since, "of-west", "10.2.0.9")
    liar.refuse = lambda _: 0
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 20)
    world.settle()
    world.never_without(since, "of-west", "10.2.0.9")


def test_F9_new_authority_of_a_peer_is_refused_until_the_secret_names_it_and_then_taken_without_a_gap(
    world: World, liar: Liar, tmp_path: Path
) -> None:
    join(world, liar)
    since = world.east.version()
    old = world.peers["west"].plane.ca.read_bytes()
    authority = Authority(tmp_path / "new", "new")
    shown = authority.issue("liar", "liar", names=["127.0.0.1"])
    new = authority.certificate_file.read_bytes()

    liar.show(*shown)
    liar.break_off()
    until(lambda: world.condition("west", "Connected") == ("False", "CertificateRefused"), 15)
    assert world.nodes().keys() == {"west.n1", "south.n1"}
    world.east.put(secret("west", liar.kubeconfig(base64.b64encode(old + new).decode())))
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 10)

    world.east.put(secret("west", liar.kubeconfig(base64.b64encode(new).decode())))
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
    world.settle()
    world.never_without(since, "of-west", "10.2.0.9")


def test_F10_bad_secret_fails_its_own_peer_by_name_and_nothing_else(world: World) -> None:
    world.join("west", "south")
    world.start()
    world.settle()
    since, before = world.east.version(), world.versions()
    west = world.peers["west"]
    nobody = west.plane.client("nobody").read_text().replace(west.plane.url, f"https://127.0.0.1:{_port(world)}")
    unreachable = world.kubeconfig("west").replace(f":{_port(world)}", ":1")
    for content, reason in (
        ("", "SecretInvalid"),
        ("no kubeconfig", "KubeconfigRefused"),
        ("{}", "KubeconfigRefused"),
        (unreachable, "Unreachable"),
        (nobody, "Forbidden"),
    ):
        world.east.put(secret("west", content))
        until(lambda r=reason: world.condition("west", "Connected") == ("False", r), 15, reason)
    world.east.delete(secret("west", ""))
    until(lambda: world.condition("west", "Connected") == ("False", "SecretMissing"), 10)
    assert world.condition("south", "Synced") == ("True", "InSync")
    assert world.versions() == before, "the last good state stays as it is"
    world.east.put(secret("west", world.kubeconfig("west")))
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 15)
    world.settle()
    world.never_without(since, "of-west", "10.2.0.9")


def _port(world: World) -> int:
    return world.relays["west"].port


@pytest.mark.slow
def test_F10_secret_of_another_peer_or_of_ourselves_is_refused_and_the_other_peer_stays(world: World) -> None:
    world.join("west")
    time.sleep(1.1)  # who was first is told by creation times, in seconds
    world.join("south")
    world.start()
    world.settle()
    since = world.east.version()
    for content, reason in (
        (world.east.plane.kubeconfig.read_text(), "SameCluster"),
        (world.kubeconfig("west"), "DuplicateCluster"),
    ):
        world.east.put(secret("south", content))
        until(lambda r=reason: world.condition("south", "Connected") == ("False", r), 15, world.logs)
    until(lambda: world.nodes().keys() == {"west.n1"}, 5)
    world.never_without(since, "of-west", "10.2.0.9")
    world.east.put(secret("south", world.kubeconfig("south")))
    world.settle(40)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["east", "south"])
def test_F10_cluster_that_turns_into_ours_or_another_peers_under_a_connection_is_refused_until_it_is_itself_again(
    world: World, liar: Liar, other: str
) -> None:
    if other == "south":
        world.join("south")
        time.sleep(1.1)  # who was first is told by creation times, in seconds
    join(world, liar)
    since = world.east.version()
    cluster = {"east": world.east, "south": world.peers["south"]}[other]
    uid = cluster.get("Namespace", "kube-system")["metadata"]["uid"]

    def lie(thing: Json) -> Json:
        if thing.get("kind") == "Namespace" and thing["metadata"]["name"] == "kube-system":
            thing["metadata"]["uid"] = uid
        return thing

    liar.rewrite = lie
    touched = {"name": "kube-system", "annotations": {"touched": str(time.time())}}  # so that it is told again
    world.peers["west"].put({"apiVersion": "v1", "kind": "Namespace", "metadata": touched})
    reason = "SameCluster" if other == "east" else "DuplicateCluster"
    until(lambda: world.condition("west", "Connected") == ("False", reason), 15, world.logs)
    until(lambda: world.nodes().keys() == {"south.n1"}, 5)
    until(lambda: world.addresses("of-west") == [], 5)
    liar.rewrite = lambda thing: thing
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 45, world.logs)
    world.settle()
    world.never_without(since, "of-south", "10.3.0.9")


def test_F11_configuration_removed_and_made_again_while_it_is_removed_ends_as_if_made_once(world: World) -> None:
    world.join("west", "south")
    world.start()
    world.settle()
    since = world.east.version()
    south = {name: version for name, version in world.versions().items() if "south" in name}
    world.east.delete(rcc("west"))
    assert world.settle(5) < 5, "everything of it is gone within five seconds, and nothing else"
    assert world.addresses("of-west") == []
    for _ in range(5):
        world.east.put(rcc("west"))
        time.sleep(0.15)
        world.east.delete(rcc("west"))
    world.east.put(rcc("west"))
    world.settle()
    assert south.items() <= world.versions().items()
    world.never_without(since, "of-south", "10.3.0.9")


def test_F11_renamed_configuration_takes_the_place_of_the_old_one(world: World) -> None:
    world.join("west", "south")
    world.start()
    world.settle()
    renamed = rcc("occident")
    renamed["spec"]["clusterAccessSecret"]["name"] = "west"
    world.peers["occident"] = world.peers["west"]
    world.east.put(renamed)
    world.east.delete(rcc("west"))
    world.settle(40)
    assert set(world.nodes()) == {"occident.n1", "south.n1"}
    assert world.east.get("EndpointSlice", "reviews-77", NS)
