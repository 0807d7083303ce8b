"""When a peer counts as lost, and what a Service may ask for then."""

from __future__ import annotations

import pytest
from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.errors import Refused
from clustermeshd.plan.staleness import GRACE_S, STEADY_S, Freshness, Policy, annotated, policy_of
from hypothesis import given
from hypothesis import strategies as st


def asking(text: str) -> objects.Service:
    return objects.Service(metadata=objects.Metadata(name="web", annotations={names.STALENESS: text}))


def test_without_a_word_of_anybody_endpoints_are_not_ready_after_five_minutes():
    default = policy_of(objects.RemoteClusterConfigurationSpec().staleness)
    assert default == Policy() == Policy("NotReady", 300.0)
    assert [default.at(lost_s) for lost_s in (0.0, 0.001, 299.9, 300.0, 1e9)] == ["", "", "", "NotReady", "NotReady"]
    assert annotated(objects.Service()) is None


@pytest.mark.parametrize(
    ("policy", "after_s", "expected"),
    [
        ("Keep", 0, Policy("", 0.0)),
        ("NotReady", 10, Policy("NotReady", 10.0)),
        ("Drop", 0, Policy("Drop", 0.0)),
        ("Nonsense", 5, Policy("", 5.0)),
        ("Drop", -3, Policy("Drop", 0.0)),
    ],
)
def test_the_policy_of_a_configuration(policy, after_s, expected):
    assert policy_of(objects.Staleness(policy, after_s)) == expected


def test_a_policy_at_once_waits_for_the_loss_itself():
    assert Policy("Drop", 0.0).at(0.0) == ""
    assert Policy("Drop", 0.0).at(0.001) == "Drop"
    assert Policy("", 0.0).at(1e9) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("keep", Policy("", 300.0)),
        ("not-ready", Policy("NotReady", 300.0)),
        ("NotReady:90", Policy("NotReady", 90.0)),
        (" not-ready:5m ", Policy("NotReady", 300.0)),
        ("drop:600", Policy("Drop", 600.0)),
        ("drop:45s", Policy("Drop", 45.0)),
        ("drop:2h", Policy("Drop", 7200.0)),
        ("drop:", Policy("Drop", 300.0)),
        ("drop:0", Policy("Drop", 0.0)),
    ],
)
def test_what_a_service_asks_for(text, expected):
    assert annotated(asking(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "never",
        "drop:5d",
        "drop:-1",
        "drop:1.5m",
        "drop:5ms",
        "drop:\u0664\u0662s",
        "drop:1e3",
        "drop:9999999999",
        "drop 5",
    ],
)
def test_what_is_no_policy_is_refused_by_name(text):
    with pytest.raises(Refused) as caught:
        annotated(asking(text))
    assert caught.value.reason == "InvalidStaleness"
    assert names.STALENESS in str(caught.value)


@given(st.text(max_size=20))
def test_any_text_is_a_policy_or_refused(text):
    try:
        policy = annotated(asking(text))
    except Refused:
        return
    assert policy is not None
    assert policy.stale in ("", "NotReady", "Drop")
    assert policy.after_s >= 0


def history(*looks: tuple[float, bool], start: float = 0.0) -> Freshness:
    made = Freshness(start)
    for now, is_current in looks:
        made.observe(is_current=is_current, now=now)
    return made


def test_a_peer_of_a_process_that_has_just_started_has_its_time_to_be_read():
    assert history((0, False), (GRACE_S - 1, False)).lost_s(GRACE_S - 1) == 0
    late = history((0, False), (GRACE_S, False))
    assert late.lost_s(GRACE_S) > 0
    assert late.lost_s(GRACE_S + 50) == 50


def test_a_peer_that_was_read_counts_as_lost_from_the_first_look_that_misses_it():
    made = history((1, True), (2, False), (3, False))
    assert 0 < made.lost_s(2) < 1
    assert made.lost_s(12) == 10


def test_a_peer_that_flaps_stays_lost_and_one_that_stays_is_well_again():
    made = history((1, True), (10, False))
    for back in (20, 30, 40):
        made.observe(is_current=True, now=back)
        made.observe(is_current=True, now=back + STEADY_S - 1)
        assert made.lost_s(back + STEADY_S - 1) == back + STEADY_S - 11, "it counts on"
        made.observe(is_current=False, now=back + STEADY_S - 0.5)
    made.observe(is_current=True, now=60)
    made.observe(is_current=True, now=60 + STEADY_S)
    assert made.lost_s(60 + STEADY_S) == 0
    made.observe(is_current=False, now=100)
    assert made.lost_s(105) == 5, "the next loss counts from zero"


@given(st.lists(st.tuples(st.floats(0.1, 20), st.booleans()), max_size=40))
def test_whatever_happens_a_peer_is_lost_no_longer_than_since_it_was_first_missed(steps):
    made, now, missed_at = Freshness(0.0), 0.0, None
    for pause_s, is_current in steps:
        now += pause_s
        made.observe(is_current=is_current, now=now)
        if not is_current and missed_at is None:
            missed_at = now
        lost_s = made.lost_s(now)
        assert lost_s == 0 or (missed_at is not None and lost_s <= now - missed_at + 1e-3)
        if lost_s == 0 and is_current:
            missed_at = None
