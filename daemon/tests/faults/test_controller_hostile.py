"""A peer that claims what is not its own, floods, or writes what nobody expects: refused one by one, and told."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from clustermesh_lab.kubeapi import ApiError
from controller_liar import Liar
from controller_model import CLUSTER, FROM, MANAGER, OURS, Json
from controller_world import World, backing, node, rcc, secret, service, slice_of, until

pytestmark = pytest.mark.faults
pytest_plugins = ("controller_fixtures",)


def refused(world: World, name: str) -> dict[str, str]:
    """Reason by object, of what status gives as examples."""
    told = world.east.get("RemoteClusterConfiguration", name).get("status", {}).get("refused") or ()
    return {f"{r['kind']} {r['name']}": r["reason"] for r in told}


def count(world: World, name: str) -> int:
    return int(
        world.east.get("RemoteClusterConfiguration", name).get("status", {}).get("counts", {}).get("refused", 0)
    )


CLAIMS = {
    "equal-local-pods": "10.1.0.0/24",
    "contains-local-pods": "10.0.0.0/14",
    "inside-local-pods": "10.1.0.128/25",
    "local-services": "10.97.4.0/24",
    "local-node": "192.168.1.0/28",
    "everything": "0.0.0.0/0",
    "metadata": "169.254.169.0/24",
    "multicast": "224.5.0.0/16",
    "of-the-older-peer": "10.2.0.0/24",
    "own-node": "192.168.3.0/30",
    "loopback": "127.5.0.0/16",
}


def test_F25_claims_of_what_is_ours_reserved_or_an_older_peers_are_refused_one_by_one_and_heal(world: World) -> None:
    world.join("west")
    world.start()
    world.settle()
    time.sleep(1.1)  # who was first is told by creation times, in seconds
    since = world.east.version()
    south = world.peers["south"]
    bad = [node(name, cidr, f"192.168.3.{n}") for n, (name, cidr) in enumerate(CLAIMS.items(), start=10)]
    south.put(*bad, node("good", "10.3.7.0/24", "192.168.3.99"))
    world.join("south")
    world.settle()
    assert world.nodes()["south.good"] == {"10.3.7.0/24"}
    assert all(world.nodes()[f"south.{name}"] == set() for name in CLAIMS)
    until(lambda: count(world, "south") == len(CLAIMS), 10, lambda: refused(world, "south"))
    reasons = refused(world, "south")
    assert reasons["Node equal-local-pods"] == reasons["Node local-services"] == "OverlapsLocal"
    assert reasons["Node everything"] == reasons["Node metadata"] == reasons["Node loopback"] == "Reserved"
    assert reasons["Node of-the-older-peer"] == "OverlapsPeer"
    assert world.condition("south", "Degraded") == ("True", "ObjectsRefused")
    world.never_without(since, "of-west", "10.2.0.9")

    world.east.delete(rcc("west"))  # the obstacle of one of them goes
    world.settle()
    assert world.nodes()["south.of-the-older-peer"] == {"10.2.0.0/24"}
    south.delete(*bad)
    world.settle()
    until(lambda: world.condition("south", "Degraded") == ("False", "NothingRefused"), 10)


@pytest.fixture
def liar(world: World) -> Iterator[Liar]:
    """South, as it shows itself."""
    made = Liar(world.peers["south"].plane)
    yield made
    made.close()


FOREIGN = {
    "local-pod": "10.1.0.5",
    "local-node": "192.168.1.1",
    "api-server": "10.97.0.1",
    "loopback": "127.0.0.1",
    "metadata": "169.254.169.254",
    "other-peer": "10.2.0.5",
    "nobody": "8.8.8.8",
    "no-address": "10.3.0.5.evil",
    "ipv6-mapped": "::ffff:10.1.0.5",
}


def test_F26_endpoint_with_an_address_that_is_not_its_peers_never_enters_a_slice_and_is_counted(
    world: World, liar: Liar
) -> None:
    def lie(thing: Json) -> Json:
        if thing.get("kind") == "EndpointSlice" and thing["metadata"]["name"] == "reviews-3-1":
            thing["endpoints"] += [{"addresses": [a], "conditions": {"ready": True}} for a in FOREIGN.values()]
            thing["endpoints"] += [{"addresses": ["10.3.0.5", "10.1.0.5"]}, {"addresses": []}]
        return thing

    liar.rewrite = lie
    world.join("west")
    since = world.east.version()
    world.east.put(secret("south", liar.kubeconfig()), rcc("south"))
    world.start()
    world.settle()  # the model reads the real API server: what was added must not be there
    until(lambda: count(world, "south") == len(FOREIGN) + 2, 15)
    for state in world.east.history(since):
        given = {
            a
            for piece in state.values()
            for e in piece["endpoints"]
            for a in e["addresses"]
            if piece["metadata"]["labels"].get(FROM) == "south"
        }
        assert not given & set(FOREIGN.values())
    liar.rewrite = lambda thing: thing
    liar.break_off()
    world.peers["south"].put(slice_of("reviews-3", "10.3.0.5", "10.3.0.6"))


def test_F27_peer_that_speaks_in_the_name_of_another_is_taken_for_itself(world: World) -> None:
    world.join("west", "south")
    world.start()
    world.east.put(service("not-west", selector=f'app == "twin" && {CLUSTER} == "west"'))
    south = world.peers["south"]
    claimed = service("twin", {"app": "twin", CLUSTER: "west", FROM: "west"})
    piece = slice_of("twin", "10.3.0.60")
    piece["metadata"]["labels"] |= {FROM: "west", MANAGER: OURS, "app.kubernetes.io/managed-by": "clustermesh"}
    south.put(claimed, piece, node("west.n1", "10.3.8.0/24", "192.168.3.8"))
    world.east.put(service("marker", selector='app == "twin"'))
    until(lambda: world.addresses("marker") == ["10.3.0.60"], 10)
    world.settle()
    assert world.addresses("not-west") == []
    assert {e.cluster for e in world.endpoints() if e.address == "10.3.0.60"} == {"south"}
    assert set(world.nodes()) == {"west.n1", "south.n1", "south.west.n1"}


@pytest.mark.slow
def test_F28_giant_objects_are_split_or_left_out_and_delay_nobody(world: World, liar: Liar) -> None:
    def lie(thing: Json) -> Json:
        if thing.get("kind") == "Service" and thing["metadata"]["name"] == "huge":
            thing["metadata"]["annotations"] = {"pad": "x" * (6 << 20)}
        return thing

    liar.rewrite = lie
    world.join("west")
    world.east.put(secret("south", liar.kubeconfig()), rcc("south"))
    controller = world.start()
    world.settle()
    before = controller.resident_bytes()
    south = world.peers["south"]
    south.put(node("wide", "10.32.0.0/16", "192.168.3.32"))
    south.put(
        service("huge", {"app": "huge"}), service("broad", {"app": "broad"} | {f"l{n}": "x" * 60 for n in range(2000)})
    )
    for number in range(10):
        south.put(slice_of("broad", *(f"10.32.{number}.{n}" for n in range(250)), number=number))
    world.east.put(service("of-broad", selector='app == "broad"'))
    world.peers["west"].put(*backing("reviews", "reviews-late", "10.2.0.44"))
    assert until(lambda: "10.2.0.44" in world.addresses("reviews"), 5) < 5
    world.settle()
    mine = [p for p in world.east.all("EndpointSlice") if p["metadata"]["labels"].get(MANAGER) == OURS]
    assert max(len(p["endpoints"]) for p in mine) <= 100
    assert len(world.addresses("of-broad")) == 2500
    told = world.east.get("Endpoints", "of-broad")
    assert sum(len(s["addresses"]) for s in told["subsets"]) == 1000
    assert told["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"] == "truncated"
    assert controller.resident_bytes() - before < 64 << 20


ODD = [
    'app == "reviews" \u0000',
    'app == "re\u202eviews',
    "app == 'x'\napp == 'y'",
    "\ud7ff\uffff == 'x'",
    "(" * 10_000,
    'app == "' + "x" * 100_000,
    "9" * 5_000,
    "$(reboot); `reboot` && has(",
    "app in {'a', 'a', 'a',, }",
    "\x1b[31mred\x1b[0m == 1",
]


def is_taken(world: World, document: Json) -> bool:
    """Whether our API server lets it in at all."""
    try:
        world.east.put(document)
    except ApiError as error:
        if error.status not in (400, 422):
            raise
        return False
    return True


def test_F29_odd_annotations_are_told_escaped_and_leave_every_other_service_alone(world: World) -> None:
    world.join("west", "south")
    controller = world.start()
    world.settle()
    since = world.east.version()
    accepted = sum(is_taken(world, service(f"odd-{number}", selector=text)) for number, text in enumerate(ODD))
    assert accepted >= 7
    staleness = service("odd-staleness", selector='app == "reviews"')
    staleness["metadata"]["annotations"]["clustermesh.io/staleness"] = "drop:\u0664\u0662\u202es"
    world.east.put(staleness, service("good", selector='app == "reviews"'))
    until(lambda: len(world.addresses("good")) == 6, 10)

    def told() -> set[str]:
        events = world.east.all("Event")
        assert all(e["message"].isprintable() for e in events), [e["message"] for e in events]
        return {e["involvedObject"]["name"] for e in events if e["type"] == "Warning"}

    until(lambda: len([n for n in told() if n.startswith("odd-")]) == accepted + 1, 15, lambda: f"{told()}")
    assert all(world.addresses(f"odd-{number}") == [] for number in range(len(ODD)))
    assert all(line.isprintable() and len(line) < 3000 for line in controller.log.splitlines())
    assert all(line[:2] == "20" for line in controller.log.splitlines()), "a line break of somebody else's"
    world.never_without(since, "reviews", "10.1.0.5", "10.2.0.5", "10.3.0.5")
