"""``clustermesh services``: what backs a federated Service, and why one has not what its owner expects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cli_schemas import SERVICES
from cli_world import (
    access_secret,
    apply,
    clustermesh,
    configuration,
    endpoint_slice,
    eventually,
    kubectl,
    service,
    thing,
)
from clustermesh_lab import ControlPlane
from clustermeshd.model import names
from jsonschema import validate

NS = "faulty"


@pytest.fixture(scope="module")
def faulty(east: ControlPlane) -> Iterator[ControlPlane]:
    """A namespace in which nothing is as it should be."""
    many = [f"10.1.{100 + i // 250}.{1 + i % 250}" for i in range(1001)]
    slices = [
        {**piece, "metadata": {**piece["metadata"], "name": f"many-{i}"}}
        for i in range(0, 1001, 100)
        for piece in [endpoint_slice(NS, "many", *many[i : i + 100])]
    ]
    served_by_kubernetes = service(NS, "own-selector", selector="all()")
    served_by_kubernetes["spec"]["selector"] = {"app": "a"}
    apply(
        east,
        thing("Namespace", NS),
        service(NS, "bad-selector", selector="app in {'a' 'b'}"),
        served_by_kubernetes,
        service(NS, "nothing", selector="app == 'nothing'"),
        service(NS, "chained", app="link", selector="app == 'nobody'"),
        service(NS, "chain", selector="app == 'link'"),
        service(NS, "metrics-1", "metrics"),
        endpoint_slice(NS, "metrics-1", "10.1.0.9", port="metrics"),
        service(NS, "metrics", selector="app == 'metrics'"),
        service(NS, "resting-1", "resting"),
        endpoint_slice(NS, "resting-1", "10.1.0.8", ready=(False,)),
        service(NS, "resting", selector="app == 'resting'"),
        service(NS, "words", selector="app == 'resting'", annotations={names.AFFINITY: "near", names.STALENESS: "x"}),
        service(NS, "many", "many"),
        *slices,
        service(NS, "crowd", selector="app == 'many'"),
    )
    yield east
    kubectl(east, "delete", "services,endpointslices,events", "--all", "-n", NS)


def problems(done, name: str) -> list[tuple[str, str]]:
    return [(p["reason"], p["message"]) for s in done.json["services"] if s["name"] == name for p in s["problems"]]


def test_endpoints_are_counted_by_cluster_and_remote_backing_is_not_guessed(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "services", "-n", "store", "-o", "json")
    assert done.status == 0
    validate(done.json, SERVICES)
    (cart,) = done.json["services"]
    assert cart["selector"] == 'app == "cart"'
    backing = [{"name": "cart-1", "ports": ["http/TCP"], "ready": 1, "notReady": 0}]
    assert cart["clusters"] == [
        {"cluster": "local", "backing": backing, "ready": 1, "notReady": 0},
        {"cluster": "west", "backing": None, "ready": 1, "notReady": 1},
    ]
    assert cart["endpoints"] is None


def test_remote_asks_the_peers_which_of_their_services_back_one(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "services", "-n", "store", "cart", "--remote", "-o", "json")
    assert done.status == 0
    validate(done.json, SERVICES)
    (cart,) = done.json["services"]
    west = {"name": "cart-23", "ports": ["http/TCP"], "ready": 1, "notReady": 1}
    assert [c["backing"] for c in cart["clusters"] if c["cluster"] == "west"] == [[west]]
    assert [(e["cluster"], e["addresses"], e["ready"]) for e in cart["endpoints"]] == [
        ("local", ["10.1.0.5"], True),
        ("west", ["10.2.0.5"], True),
        ("west", ["10.2.0.6"], False),
    ]
    table = clustermesh(east.kubeconfig, "services", "-n", "store", "cart", "--remote").out
    assert "west      cart-23           http/TCP   1/2" in table


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("bad-selector", "InvalidSelector", "at character 13 of"),
        ("own-selector", "HasSelector", "Kubernetes itself serves it"),
        ("nothing", "NoBacking", "no Service of its namespace matches here, and no endpoint came from west"),
        ("chain", "NoBacking", "only chained matches, which is federated itself"),
        ("metrics", "PortMismatch", "metrics-1 has none of its ports (http/TCP)"),
        ("resting", "NoEndpoints", "none of its endpoints is ready"),
        ("words", "InvalidAffinity", "is 'near'"),
        ("words", "InvalidStaleness", "'x' is no policy"),
        ("crowd", "OverCapacity", "the first 1,000 addresses"),
    ],
)
def test_what_is_wrong_with_a_service_is_told_with_its_reason(
    faulty: ControlPlane, name: str, reason: str, words: str
):
    def told() -> bool:
        done = clustermesh(faulty.kubeconfig, "services", "-n", NS, "-o", "json")
        return any(found == reason and words in message for found, message in problems(done, name))

    eventually(told)
    done = clustermesh(faulty.kubeconfig, "services", "-n", NS, name)
    assert done.status == (0 if reason == "OverCapacity" else 1)
    (line,) = [line for line in done.out.splitlines() if f"service {NS}/{name}: {reason}: " in line]
    assert "; fix: " in line


def test_a_remote_service_without_the_port_is_named(faulty: ControlPlane, remote_api: ControlPlane):
    apply(
        remote_api,
        thing("Namespace", NS),
        service(NS, "nothing-far", "nothing"),
        endpoint_slice(NS, "nothing-far", "10.2.0.7", port="grpc"),
    )
    try:
        done = clustermesh(faulty.kubeconfig, "services", "-n", NS, "--remote", "-o", "json")
    finally:
        kubectl(remote_api, "delete", "services,endpointslices", "--all", "-n", NS)
    assert problems(done, "nothing") == [("PortMismatch", "west/nothing-far has none of its ports (http/TCP)")]


def test_remote_services_that_the_import_rules_leave_out_back_nothing(east: ControlPlane):
    admitted = configuration("west", "west")
    admitted["spec"]["import"] = {"labelKeys": ["tier"]}
    apply(east, admitted)
    try:
        done = clustermesh(east.kubeconfig, "services", "-n", "store", "--remote", "-o", "json")
    finally:
        apply(east, configuration("west", "west"))
        eventually(lambda: "west:1/2" in clustermesh(east.kubeconfig, "services", "-n", "store").out)
    (cart,) = done.json["services"]
    assert [c["backing"] for c in cart["clusters"] if c["cluster"] == "west"] == [[]]


def test_what_the_controller_said_about_one_service_is_shown(faulty: ControlPlane):
    def said() -> bool:
        out = clustermesh(faulty.kubeconfig, "services", "-n", NS, "bad-selector").out
        return "at character 13 of" in out.partition("Warnings:")[2].partition("ERROR")[0]

    eventually(said)


def test_a_service_that_is_not_written_points_at_the_controller(fragile_api: ControlPlane):
    crds = str(Path(__file__).parents[3] / "roles" / "mesh_crds" / "files")
    kubectl(fragile_api, "apply", "--server-side", "-f", crds)
    kubectl(fragile_api, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    apply(
        fragile_api,
        service("default", "cart-1", "cart"),
        endpoint_slice("default", "cart-1", "10.1.0.5"),
        service("default", "cart", selector="app == 'cart'"),
    )
    done = clustermesh(fragile_api.kubeconfig, "services", "-o", "json")
    assert done.status == 1
    assert problems(done, "cart") == [
        ("NotWritten", "1 endpoints of local back it, and none of them has been written")
    ]


def test_a_peer_that_is_not_asked_is_told_and_keeps_nothing_back(east: ControlPlane):
    apply(east, access_secret("torn", "{"), configuration("torn", "torn"))
    try:
        done = clustermesh(east.kubeconfig, "services", "-n", "store", "--remote", "-o", "json")
        table = clustermesh(east.kubeconfig, "services", "-n", "store", "--remote").out
    finally:
        kubectl(east, "delete", "remoteclusterconfiguration/torn")
    assert (done.status, done.json["well"]) == (1, False)
    assert [entry["cluster"] for entry in done.json["notAsked"]] == ["torn"]
    assert "cart-1,west/cart-23" in table
    assert "torn was not asked: " in table


def test_the_namespace_of_the_context_is_the_default(east: ControlPlane, tmp_path: Path):
    document = yaml.safe_load(east.kubeconfig.read_text())
    document["contexts"][0]["context"]["namespace"] = "store"
    mine = tmp_path / "kubeconfig"
    mine.write_text(yaml.safe_dump(document))
    assert "store       cart" in clustermesh(mine, "services").out
    elsewhere = clustermesh(east.kubeconfig, "services")
    assert (elsewhere.status, elsewhere.out) == (
        0,
        "There is no federated Service in namespace default; -A looks in all.\n",
    )


def test_a_name_that_is_not_there_is_wrong_use(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "services", "-n", "store", "cart-1")
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "clustermesh: no federated Service cart-1 in namespace store; clustermesh services -A lists them\n"
    )
