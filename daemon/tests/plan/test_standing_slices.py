"""Slices of ours that stand for a peer which a controller has not been able to read since it started."""

import msgspec
import pytest
from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.addresses import Ranges, parse_prefix
from clustermeshd.plan import federation
from services import FEDERATED, KEY, LOCAL, REMOTE, cluster, conditions, federate, members, service, slice_of


def test_slices_of_a_cluster_that_was_not_read_yet_stay_as_they_are_until_it_counts_as_lost():
    written = list(federate(FEDERATED, LOCAL, REMOTE).values())
    remote = [piece for piece in written if names.REMOTE_CLUSTER in piece.labels]
    kept = federate(FEDERATED, LOCAL, kept=[standing(remote)])
    assert kept == {piece.metadata.name: piece for piece in written}
    lost = federate(FEDERATED, LOCAL, kept=[standing(remote, stale="NotReady")])
    assert conditions(lost) == {"10.1.0.5": True, "10.2.0.5": False, "10.2.0.6": False}
    assert {names.STALE in piece.annotations for piece in lost.values() if names.REMOTE_CLUSTER in piece.labels} == {
        True
    }


def standing(slices, **options):
    """What a controller that has just started finds of a peer that it cannot read."""
    of_west = [piece for piece in slices if piece.labels.get(names.REMOTE_CLUSTER) == "west"]
    return federation.Backing("west", of_west, is_written=True, **options)


def test_endpoints_that_stepped_back_for_local_ones_take_over_though_their_peer_is_not_read():
    federated = service("reviews", annotations={KEY: 'app == "reviews"', names.AFFINITY: "local"})
    written = federate(federated, LOCAL, REMOTE)
    assert conditions(written) == {"10.1.0.5": True, "10.2.0.5": False, "10.2.0.6": False}
    for _ in range(2):  # a restart more changes nothing
        written = federate(federated, LOCAL, kept=[standing(written.values())])
        assert conditions(written) == {"10.1.0.5": True, "10.2.0.5": False, "10.2.0.6": False}
    alone = federate(federated, kept=[standing(written.values())])
    assert conditions(alone) == {"10.2.0.5": True, "10.2.0.6": True}


def test_endpoints_that_stepped_back_as_stale_wait_on_after_a_restart_and_take_over_when_they_are_the_last():
    written = federate(FEDERATED, LOCAL, REMOTE, stale={"west": "NotReady"})
    back = {"10.1.0.5": True, "10.2.0.5": False, "10.2.0.6": False}
    assert conditions(written) == back
    for _ in range(2):  # the new leader has not counted to the end yet
        written = federate(FEDERATED, LOCAL, kept=[standing(written.values(), waits="NotReady")])
        assert conditions(written) == back
    assert conditions(federate(FEDERATED, LOCAL, kept=[standing(written.values(), waits="")])) == dict.fromkeys(
        back, True
    )
    for stale in ("", "NotReady", "Drop"):
        alone = federate(FEDERATED, kept=[standing(written.values(), stale=stale, waits="NotReady")])
        assert conditions(alone) == {"10.2.0.5": True, "10.2.0.6": True}
        assert not any(names.STALE in piece.annotations for piece in alone.values())


@pytest.mark.parametrize(
    ("ready", "serving", "terminating"), [(False, False, False), (False, True, True), (False, None, None)]
)
def test_an_endpoint_that_was_not_ready_is_not_so_after_a_restart_either(ready, serving, terminating):
    given = objects.EndpointConditions(ready=ready, serving=serving, terminating=terminating)
    piece = slice_of("reviews-23", "10.2.0.5")
    piece = msgspec.structs.replace(piece, endpoints=(msgspec.structs.replace(piece.endpoints[0], conditions=given),))
    west = cluster("west", [service("reviews-23", {"app": "reviews"})], [piece])
    affine = service("reviews", annotations={KEY: 'app == "reviews"', names.AFFINITY: "local"})
    written = [
        federate(FEDERATED, LOCAL, west),
        federate(affine, LOCAL, west),
        federate(FEDERATED, LOCAL, west, stale={"west": "NotReady"}),
    ]
    for one in written:
        assert conditions(federate(FEDERATED, kept=[standing(one.values())])) == {"10.2.0.5": False}
    published = service("reviews", annotations=FEDERATED.annotations, publish_not_ready_addresses=True)
    assert conditions(federate(published, kept=[standing(written[0].values())])) == {"10.2.0.5": True}


def test_what_stands_of_a_peer_that_is_not_read_goes_by_the_ports_families_and_addresses_of_now():
    written = federate(FEDERATED, REMOTE).values()
    other = service("reviews", annotations=FEDERATED.annotations, ports=(("admin", 81, "TCP"),))
    six = service("reviews", annotations=FEDERATED.annotations, ip_families=("IPv6",))
    assert federate(other, kept=[standing(written)]) == federate(six, kept=[standing(written)]) == {}
    foreign = standing(written, owns=Ranges([parse_prefix("10.2.0.6/32")]).holds_all)
    assert members(federate(FEDERATED, kept=[foreign])) == ["10.2.0.6"]
    here_too = federate(FEDERATED, kept=[standing(written)], nodes=("w1",))
    assert {e.node_name for piece in here_too.values() for e in piece.endpoints} == {None}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("app == 'reviews'", True),
        ("app == 'other'", True),  # who knows what the labels are
        ("federation.tigera.io/remoteClusterName == 'west'", True),
        ("app == 'reviews' && federation.tigera.io/remoteClusterName != 'west'", False),
        ("!has(federation.tigera.io/remoteClusterName)", False),
        ("app == 'x' || federation.tigera.io/remoteClusterName not in {'west', 'north'}", True),
        ("federation.tigera.io/remoteClusterName in {'north'}", False),
        ("!(app == 'x' || federation.tigera.io/remoteClusterName starts with 'we')", False),
        ("all()", True),
    ],
)
def test_a_selector_that_names_clusters_is_judged_without_reading_them(selector, expected):
    parsed = federation.selector_of(service("f", annotations={KEY: selector}))
    assert federation.may_select(parsed, "west") is expected
