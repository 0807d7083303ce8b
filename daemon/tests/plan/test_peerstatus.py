"""Status of a RemoteClusterConfiguration: stable reasons, times that move only with a change."""

from dataclasses import replace

import msgspec
import pytest
from clustermeshd.kube import objects
from clustermeshd.model.errors import Refused, Retriable
from clustermeshd.plan.peerstatus import PeerFacts, connection_status, status
from clustermeshd.plan.refusals import Refusals

FINE = PeerFacts(identified=True, synced=True, cluster_id="id", server_version="v1.36.3", nodes=2, services=3)
REFUSED = objects.RefusedObject(kind="Node", name="n9", reason="OverlapsLocal", message="10.1.0.0/24 overlaps")


def configuration(overlay="Enabled", before=None):
    return objects.RemoteClusterConfiguration(
        metadata=objects.Metadata(name="west", generation=3),
        spec=objects.RemoteClusterConfigurationSpec(sync_options=objects.SyncOptions(overlay_routing_mode=overlay)),
        status=before or objects.RemoteClusterConfigurationStatus(),
    )


def conditions(facts, overlay="Enabled"):
    made = status(configuration(overlay), facts, time="2026-01-01T00:00:00Z")
    return {c.type: (c.status, c.reason) for c in made.conditions}


def test_a_peer_in_sync_says_so():
    assert conditions(FINE) == {
        "Connected": ("True", "Connected"),
        "Synced": ("True", "InSync"),
        "Routed": ("True", "OverlayEnabled"),
        "Degraded": ("False", "NothingRefused"),
    }


@pytest.mark.parametrize(
    ("facts", "overlay", "expected"),
    [
        (PeerFacts(), "Enabled", {"Connected": ("Unknown", "Connecting"), "Synced": ("False", "NotListed")}),
        (PeerFacts(error=Retriable("no route")), "Enabled", {"Connected": ("False", "Retriable")}),
        (
            PeerFacts(error=Refused("SecretMissing", "none", where="Secret a/b", fix="make it")),
            "Enabled",
            {"Connected": ("False", "SecretMissing")},
        ),
        (
            PeerFacts(identified=True, synced=True, error=Retriable("gone"), nodes=2),
            "Enabled",
            {"Synced": ("False", "Stale"), "Routed": ("True", "OverlayEnabled")},
        ),
        (FINE, "Disabled", {"Routed": ("Unknown", "OverlayDisabled")}),
        (replace(FINE, is_mutual=True), "Enabled", {"Routed": ("True", "OverlayEnabled")}),
        (replace(FINE, is_mutual=False), "Enabled", {"Routed": ("False", "OneWay")}),
        (replace(FINE, is_mutual=False), "Disabled", {"Routed": ("Unknown", "OverlayDisabled")}),
        (PeerFacts(identified=True, synced=True), "Enabled", {"Routed": ("False", "NoNodes")}),
        (
            PeerFacts(identified=True, synced=True, refused=Refusals([REFUSED])),
            "Enabled",
            {"Degraded": ("True", "ObjectsRefused")},
        ),
    ],
)
def test_every_state_has_its_reason(facts, overlay, expected):
    assert expected.items() <= conditions(facts, overlay).items()


@pytest.mark.parametrize(
    ("facts", "number"),
    [
        (PeerFacts(error=Retriable("no route")), 0),  # never in sync
        (PeerFacts(), 1),
        (PeerFacts(identified=True), 1),
        (FINE, 2),
        (replace(FINE, error=Retriable("gone")), 3),
        (replace(FINE, error=Refused("SecretMissing", "none", where="Secret a/b", fix="make it")), 5),
        (PeerFacts(error=Refused("SecretMissing", "none", where="Secret a/b", fix="make it")), 5),
    ],
)
def test_the_number_of_each_state_is_calicos(facts, number):
    assert connection_status(facts) == number


def test_equal_facts_give_an_equal_status_whatever_the_time():
    first = status(configuration(), FINE, time="2026-01-01T00:00:00Z")
    again = status(configuration(before=first), FINE, time="2026-02-02T00:00:00Z")
    assert again == first


def test_a_transition_time_moves_with_its_status_alone():
    first = status(configuration(), FINE, time="2026-01-01T00:00:00Z")
    lost = PeerFacts(identified=True, synced=True, error=Retriable("gone"), nodes=2, services=3)
    times = {
        c.type: c.last_transition_time
        for c in status(configuration(before=first), lost, time="2026-02-02T00:00:00Z").conditions
    }
    assert times["Connected"] == times["Synced"] == "2026-02-02T00:00:00Z"
    assert times["Routed"] == times["Degraded"] == "2026-01-01T00:00:00Z"


def test_examples_are_bounded_and_the_count_is_not():
    many = [msgspec.structs.replace(REFUSED, name=f"n{i:03}") for i in range(500)]
    for order in (many, many[::-1], many[250:] + many[:250]):
        made = status(configuration(), PeerFacts(refused=Refusals(order)), time="t")
        assert [r.name for r in made.refused] == [f"n{i:03}" for i in range(20)]
        assert made.counts.refused == 500


def test_of_any_number_of_refused_objects_a_few_are_held_and_names_are_cut():
    held = Refusals()
    for number in range(5_000):
        held.add("Node", f"{number}" + "x" * 1_000, "Reserved", "y" * 10_000)
    assert len(held._first) <= 100
    assert held.total == held.counts["Reserved"] == 5_000
    assert {len(r.name) for r in held} == {253}
    assert {len(r.message) for r in held} == {500}


def test_in_sync_names_the_credential_of_the_synced_connection_and_stale_names_none():
    made = status(configuration(), replace(FINE, credential="0123456789abcdef" * 4), time="t")
    messages = {c.type: c.message for c in made.conditions or ()}
    assert messages["Synced"] == "2 nodes, 3 services, credential 0123456789abcdef"
    stale = status(configuration(), replace(FINE, credential="0123", error=Retriable("gone")), time="t")
    assert all("credential" not in c.message for c in stale.conditions or ())


@pytest.mark.parametrize(
    ("lag_s", "told"),
    [
        (None, None),
        (-0.1, 0),
        (0.0, 0),
        (12.3, 0),
        (29.9, 0),
        (31.0, 30),
        (119.0, 60),
        (4_000.0, 3_600),
        (86_399.0, 43_200),
        (200_000.0, 172_800),
    ],
)
def test_a_lag_is_told_in_few_steps(lag_s, told):
    assert status(configuration(), replace(FINE, lag_s=lag_s), time="t").lag_seconds == told


def test_endpoints_that_are_only_counted_count():
    refused = Refusals([REFUSED])
    refused.counts["ForeignAddress"] += 7
    facts = replace(FINE, refused=refused)
    made = status(configuration(), facts, time="t")
    assert (made.counts.refused, len(made.refused)) == (8, 1)
    assert facts.refused.counts == {"OverlapsLocal": 1, "ForeignAddress": 7}
    assert "8 objects refused" in {c.type: c.message for c in made.conditions}["Degraded"]
