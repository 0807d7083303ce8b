"""Federated Services as the Calico Enterprise pages describe them."""

import msgspec
import pytest
from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.plan import federation
from clustermeshd.plan.endpoints import endpoints
from clustermeshd.plan.entering import entered
from clustermeshd.selector import SelectorError
from hypothesis import given
from hypothesis import strategies as st
from services import (
    FEDERATED,
    KEY,
    LOCAL,
    REMOTE,
    cluster,
    conditions,
    federate,
    members,
    plan,
    service,
    slice_of,
)


def test_endpoints_of_local_and_remote_backing_services_meet_in_slices_of_ours():
    made = federate(FEDERATED, LOCAL, REMOTE)
    assert members(made) == ["10.1.0.5", "10.2.0.5", "10.2.0.6"]
    by_cluster = {piece.labels.get(names.REMOTE_CLUSTER): piece for piece in made.values()}
    local, remote = by_cluster[None], by_cluster["west"]
    assert local.endpoints[0].node_name == "n1"
    assert local.endpoints[0].target_ref.name == "pod-10.1.0.5"
    assert remote.endpoints[0].target_ref.name == "west/pod-10.2.0.5"
    assert remote.endpoints[0].node_name == "w1"
    assert remote.endpoints[0].zone == "z1"
    assert remote.ports == (objects.EndpointPort(name="http", port=9000, protocol="TCP"),)
    for piece in made.values():
        assert piece.labels[names.SERVICE_NAME] == "reviews"
        assert piece.labels[names.SLICE_MANAGED_BY] == names.SLICE_MANAGER
        assert [owner.uid for owner in piece.metadata.owner_references] == ["uid-reviews"]


def test_a_remote_node_name_that_exists_here_is_left_out():
    made = federate(FEDERATED, LOCAL, REMOTE, nodes=("n1", "w1"))
    remote = next(piece for piece in made.values() if names.REMOTE_CLUSTER in piece.labels)
    assert {e.node_name for e in remote.endpoints} == {None}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("federation.tigera.io/remoteClusterName == 'west'", ["10.2.0.5", "10.2.0.6"]),
        ("app == 'reviews' && !has(federation.tigera.io/remoteClusterName)", ["10.1.0.5"]),
        ("app == 'reviews' && federation.tigera.io/remoteClusterName != 'west'", ["10.1.0.5"]),
        ("app == 'other'", []),
        ("all()", ["10.1.0.5", "10.2.0.5", "10.2.0.6"]),
    ],
)
def test_the_implicit_label_of_remote_services_includes_and_excludes_clusters(selector, expected):
    assert members(federate(service("reviews", annotations={KEY: selector}), LOCAL, REMOTE)) == expected


def test_ports_match_by_name_and_protocol_and_the_number_is_the_backings():
    ports = (("http", 80, "TCP"), ("dns", 53, "UDP"), ("gone", 1, "TCP"))
    backing = slice_of(
        "b", "10.1.0.5", ports=(("http", 9000, "TCP"), ("dns", 5353, "UDP"), ("dns", 54, "TCP"), ("x", 1, "TCP"))
    )
    federated = service("f", annotations={KEY: "all()"}, ports=ports)
    (made,) = federate(federated, cluster(None, [service("b")], [backing])).values()
    assert [(p.name, p.port, p.protocol) for p in made.ports] == [("http", 9000, "TCP"), ("dns", 5353, "UDP")]


def test_a_single_unnamed_port_matches_an_unnamed_port():
    federated = service("f", annotations={KEY: "all()"}, ports=((None, 80, "TCP"),))
    backing = slice_of("b", "10.1.0.5", ports=(("", 9000, "TCP"),))
    (made,) = federate(federated, cluster(None, [service("b")], [backing])).values()
    assert [(p.name, p.port) for p in made.ports] == [("", 9000)]
    (subset,) = endpoints(federated, [made]).subsets
    assert subset.ports == (objects.EndpointPort(name=None, port=9000, protocol="TCP"),)


def test_a_federated_service_backs_nothing_and_other_namespaces_do_not_count():
    chain = service("chain", {"app": "reviews"}, {names.SERVICE_SELECTOR_ALIAS: "all()"})
    elsewhere = service("far", {"app": "reviews"}, namespace="other")
    slices = [slice_of("chain", "10.1.0.7"), slice_of("far", "10.1.0.8")]
    assert members(federate(FEDERATED, cluster(None, [chain, elsewhere], slices))) == []


def test_a_service_with_a_selector_or_without_the_annotation_is_not_federated():
    assert federation.selector_of(service("a")) is None
    assert federation.selector_of(service("a", annotations={KEY: "all()"}, selector={"x": "y"})) is None
    assert federation.selector_of(service("a", annotations={KEY: "all()"}, type="ExternalName")) is None
    assert federation.selector_of(service("a", annotations={names.SERVICE_SELECTOR_ALIAS: "all()"})) is not None


def test_a_bad_selector_says_where_it_is_wrong():
    with pytest.raises(SelectorError) as caught:
        federation.selector_of(service("a", annotations={KEY: "app = 'x'"}))
    assert caught.value.position == 4


@pytest.mark.parametrize("address", ["10.96.0.1", "127.0.0.1", "169.254.169.254", "192.168.0.1", "x"])
def test_a_remote_endpoint_outside_its_clusters_prefixes_is_dropped(address):
    hostile = cluster(
        "west", [service("b", {"app": "reviews"})], [slice_of("b", address, "10.2.0.5")], pods="10.2.0.0/16"
    )
    assert members(federate(FEDERATED, hostile)) == ["10.2.0.5"]


def test_long_slices_are_split_at_a_hundred_and_names_are_stable():
    ips = [f"10.1.{i // 200}.{i % 200 + 1}" for i in range(250)]
    big = cluster(None, [service("b", {"app": "reviews"})], [slice_of("b", *ips)])
    made = federate(FEDERATED, big)
    assert max(len(piece.endpoints) for piece in made.values()) <= 100
    assert len(made) <= 10
    assert members(made) == sorted(ips)
    assert made == federate(FEDERATED, big)


def test_families_the_service_does_not_have_are_left_out():
    slices = [
        slice_of("b", "10.1.0.5"),
        slice_of("b", "fd00::5", family="IPv6"),
        slice_of("b", "x.example", family="FQDN"),
    ]
    backing = cluster(None, [service("b")], slices)
    both = service("f", annotations={KEY: "all()"}, ip_families=("IPv6", "IPv4"))
    four = service("f", annotations={KEY: "all()"})
    assert members(federate(four, backing)) == ["10.1.0.5"]
    pieces = federate(
        both,
        cluster(
            None,
            [service("b")],
            [
                slices[0],
                msgspec.structs.replace(slices[1], metadata=msgspec.structs.replace(slices[1].metadata, name="b-six")),
            ],
        ),
    )
    assert members(pieces) == ["10.1.0.5", "fd00::5"]
    (subset,) = endpoints(both, pieces.values()).subsets
    assert [a.ip for a in subset.addresses] == ["fd00::5"]


def test_the_endpoints_object_shows_one_subset_per_cluster_and_is_not_mirrored():
    waiting = cluster("north", [service("b", {"app": "reviews"})], [slice_of("b", "10.3.0.1", ready=False)])
    made = endpoints(FEDERATED, federate(FEDERATED, LOCAL, REMOTE, waiting).values())
    assert made.labels[names.SKIP_MIRROR] == "true"
    assert made.annotations[KEY] == 'app == "reviews"'
    shown = [([a.ip for a in s.addresses or ()], [a.ip for a in s.not_ready_addresses or ()]) for s in made.subsets]
    assert shown == [(["10.1.0.5"], []), ([], ["10.3.0.1"]), (["10.2.0.5", "10.2.0.6"], [])]


def test_the_endpoints_object_holds_a_thousand_addresses_at_most():
    slices = [slice_of("b", *[f"10.{i}.{j}.1" for j in range(100)]) for i in range(12)]
    slices = [
        msgspec.structs.replace(s, metadata=msgspec.structs.replace(s.metadata, name=f"b-{i}"))
        for i, s in enumerate(slices)
    ]
    made = federate(FEDERATED, cluster(None, [service("b", {"app": "reviews"})], slices))
    assert len(members(made)) == 1200
    assert sum(len(s.addresses) for s in endpoints(FEDERATED, made.values()).subsets) == 1000


@given(st.sets(st.integers(0, 4000), min_size=60, max_size=700), st.integers(0, 4000))
def test_one_endpoint_more_rewrites_its_slice_and_at_most_the_two_of_a_split(numbers, extra):
    def made(members):
        ips = [f"10.1.{n // 250}.{n % 250 + 1}" for n in sorted(members)]
        return federate(FEDERATED, cluster(None, [service("b", {"app": "reviews"})], [slice_of("b", *ips)]))

    before, after = made(numbers), made(numbers | {extra})
    assert members(after) == sorted({*members(before), f"10.1.{extra // 250}.{extra % 250 + 1}"})
    assert all(0 < len(piece.endpoints) <= 100 for piece in after.values())
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    assert len(changed) <= 3 or len(numbers) <= 100


@pytest.mark.parametrize(
    ("affinity", "local_ready", "remote_ready", "expected"),
    [
        ("local", True, True, {"10.1.0.5": True, "10.2.0.5": False}),
        ("local", False, True, {"10.1.0.5": False, "10.2.0.5": True}),
        ("remote", True, True, {"10.1.0.5": False, "10.2.0.5": True}),
        ("remote", True, False, {"10.1.0.5": True, "10.2.0.5": False}),
        ("none", True, True, {"10.1.0.5": True, "10.2.0.5": True}),
        ("elsewhere", True, True, {"10.1.0.5": True, "10.2.0.5": True}),
    ],
)
def test_affinity_prefers_a_side_while_it_has_a_ready_endpoint(affinity, local_ready, remote_ready, expected):
    federated = service("f", annotations={KEY: "all()", names.AFFINITY: affinity})
    local = cluster(None, [service("a")], [slice_of("a", "10.1.0.5", ready=local_ready)])
    remote = cluster("west", [service("a")], [slice_of("a", "10.2.0.5", ready=remote_ready)])
    assert conditions(federate(federated, local, remote)) == expected


def test_affinity_leaves_a_port_that_only_the_other_side_serves():
    ports = (("http", 80, "TCP"), ("admin", 81, "TCP"))
    federated = service("f", annotations={KEY: "all()", names.AFFINITY: "local"}, ports=ports)
    local = cluster(None, [service("a")], [slice_of("a", "10.1.0.5")])
    remote = cluster(
        "west", [service("a")], [slice_of("a", "10.2.0.5", ports=(("http", 1, "TCP"), ("admin", 2, "TCP")))]
    )
    assert conditions(federate(federated, local, remote)) == {"10.1.0.5": True, "10.2.0.5": True}


@pytest.mark.parametrize(
    ("stale", "expected"),
    [
        ({"west": "NotReady"}, {"10.1.0.5": True, "10.2.0.5": False, "10.2.0.6": False}),
        ({"west": "Drop"}, {"10.1.0.5": True}),
        ({}, {"10.1.0.5": True, "10.2.0.5": True, "10.2.0.6": True}),
    ],
)
def test_endpoints_of_a_lost_cluster_step_back_while_others_are_ready(stale, expected):
    made = federate(FEDERATED, LOCAL, REMOTE, stale=stale)
    assert conditions(made) == expected


@pytest.mark.parametrize("policy", ["NotReady", "Drop"])
def test_a_lost_cluster_never_empties_a_service(policy):
    assert conditions(federate(FEDERATED, REMOTE, stale={"west": policy})) == {"10.2.0.5": True, "10.2.0.6": True}
    unready = cluster(None, [service("a", {"app": "reviews"})], [slice_of("a", "10.1.0.5", ready=False)])
    made = federate(FEDERATED, unready, REMOTE, stale={"west": policy})
    assert conditions(made) == {"10.1.0.5": False, "10.2.0.5": True, "10.2.0.6": True}


def test_affinity_and_staleness_together_leave_a_service_its_local_endpoints():
    federated = service("reviews", annotations={KEY: 'app == "reviews"', names.AFFINITY: "remote"})
    made = federate(federated, LOCAL, REMOTE, stale={"west": "NotReady"})
    assert conditions(made) == {"10.1.0.5": True, "10.2.0.5": False, "10.2.0.6": False}


def test_a_lying_peer_cannot_make_a_slice_that_the_api_server_refuses():
    bad = msgspec.structs.replace(
        slice_of("b", "10.2.0.5", ports=(("http", 0, "TCP"), ("http", 70000, "TCP"), ("http", 8080, "TCP"))),
        endpoints=(
            objects.Endpoint(addresses=("10.2.0.5",), hostname="Not a label", node_name="-x-", zone="z" * 300),
            objects.Endpoint(addresses=()),
            objects.Endpoint(addresses=("10.2.0.7", "fd00::1")),
            objects.Endpoint(addresses=tuple(f"10.2.1.{i}" for i in range(101))),
            objects.Endpoint(addresses=("010.2.0.8",)),
        ),
    )
    planned = plan(FEDERATED, cluster("west", [service("b", {"app": "reviews"})], [bad]))
    (made,) = planned.slices.values()
    assert made.ports == (objects.EndpointPort(name="http", port=8080, protocol="TCP"),)
    assert made.endpoints == (objects.Endpoint(addresses=("10.2.0.5",)),)
    assert len(planned.refused["west"]) == 4


def test_addresses_that_are_to_be_published_in_any_state_are_ready():
    federated = service("f", annotations={KEY: "all()"}, publish_not_ready_addresses=True)
    for serving, terminating in ((False, False), (True, True), (False, True), (None, None)):
        piece = in_state(slice_of("a", "10.2.0.5"), ready=False, serving=serving, terminating=terminating)
        for name in (None, "west"):
            made = federate(federated, cluster(name, [service("a")], [piece]))
            assert states(made) == {"10.2.0.5": (True, serving, terminating)}


def in_state(piece, **given):
    """A slice with all endpoints in one state."""
    state = objects.EndpointConditions(**given)
    return msgspec.structs.replace(
        piece, endpoints=tuple(msgspec.structs.replace(e, conditions=state) for e in piece.endpoints)
    )


def states(made):
    return {
        e.addresses[0]: (e.conditions.ready, e.conditions.serving, e.conditions.terminating)
        for piece in made.values()
        for e in piece.endpoints
    }


@pytest.mark.parametrize("name", [None, "west"])
@pytest.mark.parametrize(
    "state",
    [(True, True, False), (False, True, True), (False, False, True), (False, False, False), (None, None, None)],
)
def test_conditions_are_the_origins(name, state):
    given = dict(zip(("ready", "serving", "terminating"), state, strict=True))
    made = federate(
        FEDERATED, cluster(name, [service("a", {"app": "reviews"})], [in_state(slice_of("a", "10.2.0.5"), **given)])
    )
    assert states(made) == {"10.2.0.5": state}


@pytest.mark.parametrize(("affinity", "stale"), [("local", {}), ("none", {"west": "NotReady"})])
def test_an_endpoint_that_steps_back_is_known_to_serve_and_none_that_terminates_takes_its_place(affinity, stale):
    federated = service("f", annotations={KEY: "all()", names.AFFINITY: affinity})
    ready = in_state(slice_of("a", "10.2.0.5"), ready=True, serving=True, terminating=False)
    published = in_state(slice_of("b", "10.2.0.6"), ready=True, serving=False, terminating=True)
    ending = in_state(slice_of("c", "10.2.0.7"), ready=False, serving=True, terminating=True)
    west = cluster("west", [service(n) for n in "abc"], [ready, published, ending])
    made = states(federate(federated, cluster(None, [service("l")], [slice_of("l", "10.1.0.5")]), west, stale=stale))
    assert made["10.2.0.5"] == made["10.2.0.6"] == (False, True, False)
    assert made["10.2.0.7"] == (False, not stale, True), "proxies fall back to what serves while it terminates"


@pytest.mark.parametrize("name", [None, "west"])
def test_hostname_and_the_time_of_the_last_change_are_the_origins(name):
    piece = slice_of("a", "10.2.0.5")
    meta = msgspec.structs.replace(
        piece.metadata, annotations={names.LAST_CHANGE_TRIGGER: "2026-01-01T00:00:00Z", "x": "y", names.STALE: "true"}
    )
    named = tuple(msgspec.structs.replace(e, hostname="db-0") for e in piece.endpoints)
    piece = msgspec.structs.replace(piece, metadata=meta, endpoints=named)
    (made,) = federate(FEDERATED, cluster(name, [service("a", {"app": "reviews"})], [piece])).values()
    assert made.annotations == {names.LAST_CHANGE_TRIGGER: "2026-01-01T00:00:00Z"}
    assert [e.hostname for e in made.endpoints] == ["db-0"]


def test_an_endpoints_object_that_is_cut_says_so_and_keeps_ready_addresses_first():
    waiting = slice_of("b", *[f"10.1.{i // 250}.{i % 250 + 1}" for i in range(300)], ready=False)
    ready = slice_of("b", *[f"10.2.{i // 250}.{i % 250 + 1}" for i in range(900)])
    made = federate(
        FEDERATED,
        cluster(None, [service("b", {"app": "reviews"})], [waiting]),
        cluster("west", [service("b", {"app": "reviews"})], [ready]),
    )
    shown = endpoints(FEDERATED, made.values())
    assert shown.annotations[names.OVER_CAPACITY] == "truncated"
    assert sum(len(s.addresses or ()) for s in shown.subsets) == 900
    assert sum(len(s.not_ready_addresses or ()) for s in shown.subsets) == 100


def test_addresses_that_were_judged_are_not_judged_again_until_they_change():
    asked = []

    def owns(texts, family):
        asked.extend(texts)
        return all(text.startswith("10.2.") for text in texts)

    def planned(piece):
        backing = federation.Backing("west", [piece], owns, owned=known)
        made = federation.plan(FEDERATED, [backing])
        return members(made.slices), made.refused

    known = {}
    given = entered(slice_of("reviews-23", "10.2.0.5", "10.2.0.6"), "west")
    assert planned(given) == (["10.2.0.5", "10.2.0.6"], {})
    assert asked == ["10.2.0.5", "10.2.0.6"]
    unready = entered(slice_of("reviews-23", "10.2.0.5", "10.2.0.6", ready=False), "west")
    assert planned(given) == planned(unready) == (["10.2.0.5", "10.2.0.6"], {})
    assert len(asked) == 2
    moved = entered(slice_of("reviews-23", "10.2.0.5", "10.3.0.6"), "west")
    for _ in range(2):
        assert planned(moved) == (["10.2.0.5"], {"west": ["10.3.0.6"]})
    assert planned(given) == (["10.2.0.5", "10.2.0.6"], {})
