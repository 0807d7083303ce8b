"""What a peer gave, and what it names, is let go of when it is gone."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

from clustermeshd.controller.facts import ServiceFacts, ServiceName
from clustermeshd.controller.federation import Federator
from clustermeshd.controller.metrics import Metrics
from clustermeshd.controller.status import StatusWriter
from clustermeshd.controller.written import WrittenSlices
from clustermeshd.kube import objects
from clustermeshd.kube.informer import Change
from clustermeshd.model import names
from clustermeshd.model.addresses import Ranges
from clustermeshd.plan.imports import ServiceRules
from clustermeshd.plan.refusals import Refusals


def service(namespace: str, name: str, **annotations: str) -> objects.Service:
    return objects.Service(metadata=objects.Metadata(name=name, namespace=namespace, annotations=annotations))


class Closed:
    """Stands for a connection."""


def federator(peer: object) -> tuple[Federator, ServiceFacts]:
    local = SimpleNamespace(
        services=ServiceFacts(lambda name: made.changed("", name)), written=WrittenSlices(lambda _: None)
    )
    unused = SimpleNamespace()
    made = Federator(
        local,
        {"west": peer},
        client=unused,
        writer=unused,
        events=unused,
        metrics=Metrics(),
        still_admits=lambda *_: True,
    )
    return made, local.services


def test_namespaces_that_a_peer_names_are_forgotten_with_their_services():
    rules = ServiceRules()
    peer = SimpleNamespace(name="west", admits_namespace=lambda _: True, visible_labels=rules.visible, rules=rules)
    made, local = federator(peer)
    theirs = ServiceFacts(lambda name: made.changed("west", name))
    made.in_force("west", SimpleNamespace(services=theirs), Ranges(()))
    local.on_service(Change("added", None, service("shop", "all", **{names.SERVICE_SELECTOR: "all()"})))
    for number in range(1_000):
        one = service(f"ns-{number}", "x")
        theirs.on_service(Change("added", None, one))
        theirs.on_service(Change("deleted", one, None))
    assert set(made._index) == {"shop"}
    theirs.on_service(Change("added", None, service("shop", "y")))
    assert list(made._index["shop"].selected("all")) == [("west", "y")]
    made.changed("", ServiceName("nowhere", "z"))
    assert set(made._index) == {"shop"}


def test_a_connection_that_is_closed_is_not_held_for_its_status():
    settled = False
    writer = StatusWriter(
        SimpleNamespace(),
        {},
        SimpleNamespace(),
        refused_endpoints=lambda _: Refusals(),
        fence=lambda: None,
        is_settled=lambda: settled,
        events=SimpleNamespace(),
        metrics=Metrics(),
        cluster_id=lambda: "",
    )
    for settled in (False, True):
        peer = SimpleNamespace(name="west", connection=Closed())
        held = weakref.ref(peer.connection)
        assert writer._is_settling(peer) is not settled
        peer.connection = None
        gc.collect()
        assert held() is None
