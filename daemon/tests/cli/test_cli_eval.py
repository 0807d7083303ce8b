"""``clustermesh eval``: what a selector matches, in all clusters, and which of them could not be asked."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
import yaml
from cli_schemas import EVALUATION
from cli_world import access_secret, apply, clustermesh, configuration, kubectl, thing
from clustermesh_lab import ControlPlane
from clustermeshd.model import names
from jsonschema import validate

RBAC = "rbac.authorization.k8s.io"


@pytest.fixture
def silent_server(peer_kubeconfig: str) -> Iterator[str]:
    """Kubeconfig of a server that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        document = yaml.safe_load(peer_kubeconfig)
        document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{listening.getsockname()[1]}"
        yield yaml.safe_dump(document)


def test_all_gives_the_picture_of_the_documentation(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "eval", "all()")
    assert done.status == 0
    assert done.out.splitlines() == [
        "Endpoints matching selector all():",
        "Workload endpoint west/w1/k8s/store.cart/eth0",
        "Workload endpoint e1/k8s/store.cart/eth0",
    ]


@pytest.mark.parametrize(
    ("selector", "clusters"),
    [
        ("app == 'cart'", {"west", None}),
        ("projectcalico.org/serviceaccount == 'till'", {None}),
        ("projectcalico.org/namespace == 'store' && projectcalico.org/orchestrator == 'k8s'", {"west", None}),
        ("pcns.team == 'retail'", {"west", None}),
        ("pcns.team == 'forged'", set()),  # a pod's own label cannot pose as its namespace's
        ("pcsa.trusted == 'yes'", {None}),
        ("pcsa.projectcalico.org/name == 'default'", {"west"}),
    ],
)
def test_endpoints_have_the_labels_that_policy_sees(east: ControlPlane, selector: str, clusters: set[str | None]):
    done = clustermesh(east.kubeconfig, "eval", selector, "-o", "json")
    validate(done.json, EVALUATION)
    assert {found["cluster"] for found in done.json["found"]} == clusters
    assert sum(asked["matches"] for asked in done.json["clusters"]) == len(done.json["found"])


def test_services_are_selected_as_federation_does(east: ControlPlane):
    selector = f"app == 'cart' && {names.REMOTE_CLUSTER_NAME} == 'west'"
    done = clustermesh(east.kubeconfig, "eval", "--services", selector, "-o", "json")
    validate(done.json, EVALUATION)
    assert [found["name"] for found in done.json["found"]] == ["west/store/cart-23"]
    everything = clustermesh(east.kubeconfig, "eval", "--services", "-n", "store", "all()").out
    assert "Service store/cart-1" in everything
    assert "store/cart\n" not in everything  # federated itself: it backs nothing


def test_a_bad_selector_is_told_with_its_position_before_any_cluster_is_asked():
    done = clustermesh(None, "eval", "app = 'cart'")
    assert (done.status, done.out) == (2, "")
    assert "at character 5 of \"app = 'cart'\"" in done.err


def test_a_caller_who_may_not_read_the_secret_is_told_which_peer_was_not_asked(east: ControlPlane):
    role = thing("ClusterRole", "viewer", None, f"{RBAC}/v1")
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [names.GROUP], "resources": ["*"], "verbs": ["list"]},
    ]
    binding = thing("ClusterRoleBinding", "viewer", None, f"{RBAC}/v1")
    binding["roleRef"] = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "viewer"}
    binding["subjects"] = [{"kind": "User", "name": "viewer", "apiGroup": RBAC}]
    apply(east, {**role, "rules": rules}, binding)
    done = clustermesh(east.client("viewer"), "eval", "all()")
    assert done.status == 1
    assert done.out.splitlines()[1:] == ["Workload endpoint e1/k8s/store.cart/eth0"]
    secret = f"Secret {names.NAMESPACE}/west: you may not read it"
    assert done.err.startswith(f"peer west was not asked: {secret}")


def test_dead_peers_cost_one_time_out_together_and_no_answer_of_another(east: ControlPlane, silent_server: str):
    apply(east, access_secret("silent", silent_server), configuration("a", "silent"), configuration("b", "silent"))
    try:
        started = time.monotonic()
        done = clustermesh(east.kubeconfig, "eval", "all()", "--timeout", "3", "-o", "json")
        took_s = time.monotonic() - started
    finally:
        kubectl(east, "delete", "remoteclusterconfiguration/a", "remoteclusterconfiguration/b")
    errors = {asked["cluster"]: asked["error"] for asked in done.json["clusters"]}
    assert done.status == 1
    assert errors.pop("west") is None
    assert errors.pop(None) is None
    assert set(errors) == {"a", "b"}
    assert all("timed out" in error for error in errors.values())
    assert "west/w1/k8s/store.cart/eth0" in done.out
    assert 3 <= took_s < 6
