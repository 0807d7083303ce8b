"""federated_service against real API servers: one definition in many clusters, and nothing of anybody else's lost."""

from __future__ import annotations

import json

import pytest

from tests.integration_modules.direct import Direct
from tests.integration_modules.runner import audit, kubectl, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
SHOP = {
    "name": "shop",
    "namespace": "web",
    "selector": "app == 'shop'",
    "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    "affinity": "local",
    "staleness": "not-ready:1m",
    "labels": {"team": "web"},
}


def service(plane, name: str, namespace: str = "web") -> dict:
    return json.loads(kubectl(plane, "-n", namespace, "get", "service", name, "-o", "json"))


def options(plane, *services: dict, **more) -> dict:
    return {"kubeconfig": str(plane.kubeconfig), "services": list(services), **more}


def actions(answer: dict) -> dict[str, str]:
    return {f"{o['kind']}/{o['name']}": o["action"] for o in answer["objects"]}


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    return Direct(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def web(paris):
    kubectl(paris, "create", "namespace", "web")
    return paris


def test_one_definition_holds_in_every_cluster_and_is_written_once(direct, paris, oslo):
    for plane in (paris, oslo):
        definition = options(plane, {**SHOP, "namespace": "fresh"}, create_namespaces=True)
        start = len(audit(plane))
        predicted = direct.run("federated_service", definition, check=True)
        assert writes(plane, start) == []
        made = direct.run("federated_service", definition)
        assert actions(made) == actions(predicted) == {"Namespace/fresh": "create", "Service/shop": "create"}
        start = len(audit(plane))
        assert not direct.run("federated_service", definition)["changed"]
        assert writes(plane, start) == []
        stored = service(plane, "shop", "fresh")
        assert stored["metadata"]["annotations"] == {
            "federation.tigera.io/serviceSelector": "app == 'shop'",
            "clustermesh.io/affinity": "local",
            "clustermesh.io/staleness": "not-ready:1m",
        }
        assert "selector" not in stored["spec"]
        assert [(p["name"], p["port"], p["protocol"]) for p in stored["spec"]["ports"]] == [
            ("http", 80, "TCP"),
            ("dns", 53, "UDP"),
        ]


def test_what_is_no_longer_said_is_taken_back_and_the_address_stays(direct, web):
    direct.run("federated_service", options(web, {**SHOP, "session_affinity": "ClientIP"}))
    before = service(web, "shop")
    assert before["spec"]["sessionAffinity"] == "ClientIP"
    plain = {"name": "shop", "namespace": "web", "selector": "app == 'shop'", "ports": SHOP["ports"][:1]}
    answer = direct.run("federated_service", options(web, plain))
    assert actions(answer) == {"Service/shop": "update"}
    after = service(web, "shop")
    assert list(after["metadata"]["annotations"]) == ["federation.tigera.io/serviceSelector"]
    assert "team" not in after["metadata"]["labels"]
    assert (len(after["spec"]["ports"]), after["spec"]["sessionAffinity"]) == (1, "None")
    assert after["spec"]["clusterIP"] == before["spec"]["clusterIP"]
    assert not direct.run("federated_service", options(web, plain))["changed"]


def test_one_bad_definition_is_named_and_stops_no_other(direct, web):
    bad = [
        {**SHOP, "name": "empty", "selector": "  "},
        {**SHOP, "name": "long", "selector": "x" * 1025},
        {**SHOP, "name": "nowhere", "namespace": "absent"},
        {**SHOP, "name": "stale", "staleness": "soon"},
        {**SHOP, "name": "Not_A_Name"},
    ]
    answer = direct.run("federated_service", options(web, *bad, {**SHOP, "name": "good"}))
    assert answer["failed"]
    assert len(answer["refused"]) == len(bad)
    for name, reason in zip(("empty", "long", "nowhere", "stale", "Not_A_Name"), sorted_by(bad, answer), strict=True):
        assert name in reason
    assert actions(answer) == {"Service/good": "create"}
    assert service(web, "good")["metadata"]["annotations"]["federation.tigera.io/serviceSelector"]


def sorted_by(definitions: list[dict], answer: dict) -> list[str]:
    """The refusals in the order of the definitions they name."""
    return [next(r for r in answer["refused"] if d["name"] in r) for d in definitions]


def test_a_foreign_service_and_its_selector_stay_until_told(direct, web):
    kubectl(web, "-n", "web", "create", "service", "clusterip", "theirs", "--tcp=80:8080")
    mine = {"name": "theirs", "namespace": "web", "selector": "all()", "ports": [{"name": "80-8080", "port": 80}]}
    before = service(web, "theirs")
    assert "adopt: true" in direct.run("federated_service", options(web, mine))["msg"]
    assert "drop_selector: true" in direct.run("federated_service", options(web, mine, adopt=True))["msg"]
    gone = direct.run("federated_service", options(web, mine, state="absent"))
    assert (gone["changed"], actions(gone)) == (False, {"Service/theirs": "leave"})
    assert service(web, "theirs") == before
    told = options(web, mine, adopt=True, drop_selector=True)
    assert direct.run("federated_service", told)["changed"]
    after = service(web, "theirs")
    assert "selector" not in after["spec"]
    assert after["spec"]["clusterIP"] == before["spec"]["clusterIP"]
    assert not direct.run("federated_service", told)["changed"]


def test_headless_is_chosen_at_birth(direct, web):
    headless = {**SHOP, "name": "names", "headless": True}
    assert direct.run("federated_service", options(web, headless))["changed"]
    assert service(web, "names")["spec"]["clusterIP"] == "None"
    answer = direct.run("federated_service", options(web, {**headless, "headless": False}))
    assert "cannot be changed" in answer["msg"]
    gone = options(web, headless, state="absent")
    assert actions(direct.run("federated_service", gone)) == {"Service/names": "delete"}
    assert not direct.run("federated_service", gone)["changed"]
