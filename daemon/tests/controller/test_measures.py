"""Metrics of a peer: what is gone is told no more, and a lag is what the facts may lag behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from clustermeshd.controller.connection import Connection
from clustermeshd.controller.metrics import Metrics
from clustermeshd.controller.status import StatusWriter
from clustermeshd.kube import objects
from clustermeshd.model.errors import Retriable
from clustermeshd.plan.peerstatus import PeerFacts
from clustermeshd.plan.refusals import Refusals
from meshes import exposition


def writer(metrics: Metrics) -> StatusWriter:
    nothing = SimpleNamespace()
    return StatusWriter(
        nothing,
        {},
        nothing,
        refused_endpoints=lambda _: Refusals(),
        fence=lambda: None,
        is_settled=lambda: True,
        events=nothing,
        metrics=metrics,
        cluster_id=lambda: "",
    )


async def test_a_reason_is_told_in_an_event_once_while_it_lasts_whatever_its_examples():
    said: list[tuple[str, str]] = []

    class Events:
        async def warn(self, thing, api_version, kind, reason, message, **_):
            said.append((reason, message))

    made, west = writer(Metrics()), Peer()
    made._events = Events()

    async def look(*names: str, reason: str = "Reserved") -> None:
        refused = Refusals()
        for name in names:
            refused.add("Node", name, reason, "no")
        await made._warn(west, objects.RemoteClusterConfiguration(), PeerFacts(refused=refused))

    await look("n1")
    await look("n0", "n1")
    await look("m", "n0")
    assert said == [("Reserved", "Node n1: no")]
    await look("n1", reason="OverlapsLocal")
    await look("n7")
    assert said[1:] == [("OverlapsLocal", "Node n1: no"), ("Reserved", "Node n7: no")]


class Peer:
    """Stands for one."""


def credentials(expires_at: datetime | None) -> SimpleNamespace:
    return SimpleNamespace(access=SimpleNamespace(expires_at=expires_at))


def test_the_time_of_a_credential_that_expires_is_gone_after_a_change_to_one_that_does_not():
    metrics = Metrics()
    measure = writer(metrics)._measure
    soon = credentials(datetime.now(UTC) + timedelta(hours=1))
    for newest, told in ((soon, True), (credentials(None), False), (soon, True), (None, False)):
        measure(SimpleNamespace(name="west", connection=None, credentials=newest), PeerFacts())
        assert ('expiry_seconds{remote_cluster_name="west"}' in exposition(metrics)) is told


def informer(state: str, age_s: float, error: Exception | None = None) -> SimpleNamespace:
    return SimpleNamespace(state=state, last_event_age_s=age_s, error=error)


@pytest.mark.parametrize(
    ("silence_s", "informers", "lag_s"),
    [
        (1.5, [informer("watching", 50.0), informer("watching", 40.0)], 1.5),
        (19.0, [informer("watching", 50.0), informer("watching", 40.0)], 19.0),
        (0.2, [informer("watching", 50.0), informer("waiting", 70.0, Retriable("gone"))], 70.0),
        (0.2, [informer("watching", 50.0), informer("listing", 3.0)], 3.0),
        (400.0, [informer("waiting", 400.0, Retriable("gone"))] * 2, 400.0),
    ],
)
def test_a_lag_is_that_of_the_kind_furthest_behind_and_of_a_server_that_is_silent(silence_s, informers, lag_s):
    made = Connection.__new__(Connection)
    made._client = SimpleNamespace(silence_s=silence_s)
    made.nodes, made.namespaces = informers
    made.service_informer = made.slice_informer = informers[0]
    made.prefixes = SimpleNamespace(blocks=None, pods=None)
    assert made.lag_s == lag_s
