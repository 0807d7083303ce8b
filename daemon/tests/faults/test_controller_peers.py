"""Faults of the line to a peer, and of the peer's API server: the other clusters never notice."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from controller_liar import Liar
from controller_world import NS, READS, World, asked, backing, rcc, secret, slice_of, until

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
    until(lambda: world.condition("south", "Synced") == ("True", "InSync"), 10)
    world.never_without(since, "reviews", "10.2.0.5", "10.2.0.6", "10.3.0.5", "10.1.0.5")
    world.never_without(since, "of-west", "10.2.0.9")
    assert kept.items() <= world.versions().items()
    world.relays["west"].mend()
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 15)
    world.settle()
    assert second.is_running


@pytest.mark.slow
def test_F5_peer_that_falls_silent_without_a_word_is_noticed_within_30_s_and_keeps_everything(world: World) -> None:
    world.join("west", "south")
    world.start()
    world.settle()
    since = world.east.version()
    world.relays["west"].hold()
    noticed = until(lambda: world.condition("west", "Connected")[0] == "False", 30)
    assert noticed <= 30
    world.peers["south"].put(*backing("reviews", "reviews-late", "10.3.0.44"))
    until(lambda: "10.3.0.44" in world.addresses("reviews"), 5)
    world.never_without(since, "of-west", "10.2.0.9")
    world.relays["west"].mend()
    world.settle(30)


@pytest.mark.slow
def test_F6_peer_behind_a_very_slow_line_delays_nobody_and_is_read_in_the_end(world: World) -> None:
    world.join("south")
    controller = world.start()
    world.settle()
    world.relays["west"].slow(8192)
    world.join("west")
    west = world.peers["west"]
    for number in range(6):
        west.put(slice_of("own", *(f"10.2.0.{40 * number + n}" for n in range(10, 50)), number=number + 2))
    before = controller.resident_bytes()
    for number in range(5):
        world.peers["south"].put(*backing("reviews", "reviews-late", f"10.3.0.{50 + number}"))
        assert until(lambda n=number: f"10.3.0.{50 + n}" in world.addresses("reviews"), 5) < 2
    assert world.condition("west", "Synced")[0] != "True"
    assert controller.resident_bytes() - before < 32 << 20
    world.relays["west"].mend()
    world.settle(15)


@pytest.mark.slow
def test_F7_expired_token_keeps_everything_and_a_new_one_in_the_secret_is_taken_without_a_restart(
    world: World,
) -> None:
    west = world.peers["west"]
    world.east.put(secret("west", _token_kubeconfig(world, "first")), rcc("west"))
    controller = world.start()
    world.settle()
    since = world.east.version()
    west.delete({"kind": "ServiceAccount", "metadata": {"name": "first", "namespace": NS}})
    until(lambda: not _works(world, "west"), 20)  # the API server remembers a good token for ten seconds
    world.relays["west"].reset()
    until(lambda: world.condition("west", "Connected") == ("False", "Unauthorized"), 15)
    assert world.nodes().keys() == {"west.n1"}
    world.east.put(secret("west", _token_kubeconfig(world, "second")))
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 10)
    world.settle()
    world.never_without(since, "of-west", "10.2.0.9")
    assert controller.is_running


@pytest.mark.slow
def test_F7_new_token_is_taken_while_the_watch_of_its_secret_is_down_and_status_tells_of_the_watch(
    world: World, tmp_path: Path
) -> None:
    west = world.peers["west"]
    liar = Liar(world.east.plane)
    try:
        own = tmp_path / "own.kubeconfig"
        own.write_text(liar.kubeconfig())
        world.east.put(secret("west", _token_kubeconfig(world, "early")), rcc("west"))
        world.start(kubeconfig=own)
        world.settle()
        liar.refuse = lambda path: 403 if "/secrets?" in path else 0
        liar.break_off()
        until(lambda: world.condition("west", "Degraded") == ("True", "SecretNotWatched"), 40)
        assert world.condition("west", "Connected") == ("True", "Connected")
        since = world.east.version()
        west.delete({"kind": "ServiceAccount", "metadata": {"name": "early", "namespace": NS}})
        until(lambda: not _works(world, "west"), 20)  # the API server remembers a good token for ten seconds
        world.relays["west"].reset()
        until(lambda: world.condition("west", "Connected") == ("False", "Unauthorized"), 15)
        world.east.put(secret("west", _token_kubeconfig(world, "late")))
        until(lambda: world.condition("west", "Connected") == ("True", "Connected"), 15)
        until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 5)
        liar.refuse = lambda _: 0
        until(lambda: world.condition("west", "Degraded") == ("False", "NothingRefused"), 30)
        world.settle()
        world.never_without(since, "of-west", "10.2.0.9")
    finally:
        for controller in world.controllers:
            controller.stop()
        liar.close()


def _token_kubeconfig(world: World, account: str) -> str:
    """A kubeconfig by a token that the peer's own API server issued for ten minutes."""
    west = world.peers["west"]
    west.put(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": NS}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"read-{account}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NS}],
        },
    )
    path = f"/api/v1/namespaces/{NS}/serviceaccounts/{account}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    token = json.loads(west.api.raw("POST", path, json.dumps(body)))["status"]["token"]
    config = json.loads(world.kubeconfig("west"))
    config["users"][0]["user"] = {"token": token}
    return json.dumps(config)


def _works(world: World, name: str) -> bool:
    """Whether the peer's API server accepts the token in the Secret."""
    data = world.east.get("Secret", name, "default")["data"]["kubeconfig"]
    token = json.loads(base64.b64decode(data))["users"][0]["user"]["token"]
    peer = world.peers[name].plane
    context = ssl.create_default_context(cafile=str(peer.ca))
    request = urllib.request.Request(f"{peer.url}/api", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, context=context, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False


def test_F8_burst_of_rotations_leaves_no_gap_and_touches_no_other_peer(world: World) -> None:
    world.join("west", "south")
    world.start()
    world.settle()
    since, others = world.east.version(), world.relays["south"].made
    admin = json.loads(world.kubeconfig("west"))
    for number in range(20):
        made = world.peers["west"].plane.client(f"rotated-{number}", ["system:masters"]).read_text()
        admin["users"][0]["user"] = json.loads(made)["users"][0]["user"]
        world.east.put(secret("west", json.dumps(admin)))
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
    world.settle(15)
    world.never_without(since, "reviews", "10.1.0.5", "10.2.0.5", "10.3.0.5")
    assert world.relays["south"].made == others
    fingerprint = hashlib.sha256(json.dumps(admin).encode()).hexdigest()[:16]
    until(lambda: fingerprint in _message(world, "west", "Synced"), 10)

    connections = world.relays["west"].made
    world.east.put(secret("west", json.dumps(admin), touched="yes"))
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.45"))
    world.settle()
    assert world.relays["west"].made == connections, "an annotation is no new credential"


def _message(world: World, name: str, kind: str) -> str:
    conditions = world.east.get("RemoteClusterConfiguration", name).get("status", {}).get("conditions") or ()
    return next((c["message"] for c in conditions if c["type"] == kind), "")


def test_F36_peer_that_knows_nothing_of_us_is_only_read_and_no_condition_promises_the_other_half(world: World) -> None:
    west = world.peers["west"]
    made = west.plane.client("reader", ["system:masters"]).read_text()
    world.east.put(secret("west", made), rcc("west"))
    world.start()
    world.settle()
    until(lambda: world.condition("west", "Synced") == ("True", "InSync"), 10)
    requests = asked(west, "reader")
    assert requests
    assert not [text for text in requests if text.split()[0] not in READS]
    told = world.east.get("RemoteClusterConfiguration", "west")["status"]
    assert {c["type"]: (c["status"], c["reason"]) for c in told["conditions"]} == {
        "Connected": ("True", "Connected"),
        "Synced": ("True", "InSync"),
        "Routed": ("True", "OverlayEnabled"),
        "Degraded": ("False", "NothingRefused"),
    }
    # whether it reads us, and what its nodes do, nobody here knows: this half is all that is said
    assert _message(world, "west", "Routed") == "1 nodes are given to the agents"
    assert _message(world, "west", "Synced").startswith("1 nodes, 3 services, credential ")
    words = json.dumps(told).lower()
    assert not [word for word in ("mutual", "both", "reach", "accept", "one direction", "oneway") if word in words]
