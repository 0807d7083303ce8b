"""Policy replication between real API servers: paris serves Calico's storage, oslo Calico's public API."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from clustermesh_lab import calico

from tests.integration_modules.direct import Direct
from tests.integration_modules.runner import apply, audit, kubectl, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
OURS = {"app.kubernetes.io/managed-by": "clustermesh", "clustermesh.io/policy-set": "default"}
KINDS = ("Tier", "NetworkSet", "GlobalNetworkSet", "NetworkPolicy", "GlobalNetworkPolicy")


def get(plane, resource: str, name: str, namespace: str = "") -> dict:
    where = ["-n", namespace] if namespace else []
    return json.loads(kubectl(plane, *where, "get", resource, name, "-o", "json", "--show-managed-fields"))


def names(plane, resource: str) -> set[str]:
    return set(kubectl(plane, "get", resource, "-A", "-o", "name").split())


def definitions(public: bool) -> list[dict]:
    """Calico's CRDs of policies in the group of its storage or of its public API; and one of ClusterNetworkPolicy."""
    found = [d for d in yaml.safe_load_all(calico.objects()) if d and d["kind"] == "CustomResourceDefinition"]
    found = [d for d in found if d["spec"]["names"]["kind"] in KINDS and "projectcalico" in d["spec"]["group"]]
    cluster = copy.deepcopy(next(d for d in found if d["spec"]["names"]["kind"] == "Tier"))
    for item in found if public else []:
        item["spec"] |= {"group": "projectcalico.org"}
        item["spec"]["versions"][0]["name"] = "v3"
        item["metadata"]["name"] = f"{item['spec']['names']['plural']}.projectcalico.org"
    plural = "clusternetworkpolicies"
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    version = {"name": "v1alpha2", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    kind = {"plural": plural, "singular": "clusternetworkpolicy", "kind": "ClusterNetworkPolicy"}
    cluster["metadata"] = {
        "name": f"{plural}.policy.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api"},
    }
    cluster["spec"] |= {"group": "policy.networking.k8s.io", "names": kind, "versions": [version]}
    return [*found, cluster]


def item(version: str, kind: str, name: str, spec: dict, namespace: str = "", **meta) -> dict:
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **place, **meta}, "spec": spec}


STORAGE = "crd.projectcalico.org/v1"
DNS = {"podSelector": {}, "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}], "policyTypes": ["Egress"]}
WANTED = [
    item(STORAGE, "Tier", "security", {"order": 10}),
    item(STORAGE, "GlobalNetworkSet", "offices", {"nets": ["10.1.4.0/24", "192.0.2.7/32"]}, labels={"set": "office"}),
    item(STORAGE, "GlobalNetworkPolicy", "security.deny", {"tier": "security", "order": 1, "types": ["Ingress"]}),
    item(STORAGE, "NetworkPolicy", "default.pass", {"tier": "default", "selector": "all()"}, "shop"),
    item("networking.k8s.io/v1", "NetworkPolicy", "dns", DNS, "shop"),
    item("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", "admin", {"tier": "Admin", "priority": 5}),
]


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    return Direct(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def clusters(paris, oslo):
    for plane, public in ((paris, False), (oslo, True)):
        apply(plane, *definitions(public))
        kubectl(plane, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        kubectl(plane, "create", "namespace", "shop")
    apply(paris, *WANTED)
    return paris, oslo


@pytest.fixture
def run(direct, clusters):
    """Runs policy on oslo with paris as its source, unless told another one."""
    paris, oslo = clusters

    def run(*, check: bool = False, **options) -> dict:
        if not {"definitions", "files", "state"} & set(options):
            options["source"] = {"kubeconfig": str(paris.kubeconfig)}
        return direct.run("policy", {"kubeconfig": str(oslo.kubeconfig), **options}, check=check)

    return run


def actions(answer: dict) -> dict[str, str]:
    return {f"{o['kind']}/{o['name']}": o["action"] for o in answer["objects"]}


def drift(answer: dict) -> dict[str, tuple]:
    """path -> (want, have, manager) of all fields that drifted."""
    return {f["path"]: (f["want"], f["have"], f["manager"]) for o in answer["objects"] for f in o["drift"]}


def test_policies_arrive_in_order_under_the_names_of_the_other_api_and_are_written_once(run, clusters):
    oslo = clusters[1]
    start = len(audit(oslo))
    predicted = run(check=True)
    assert writes(oslo, start) == []
    answer = run()
    assert actions(answer) == actions(predicted)
    assert list(actions(answer).items()) == [
        ("Tier/security", "create"),
        ("GlobalNetworkSet/offices", "create"),
        ("CalicoNetworkPolicy/pass", "create"),
        ("ClusterNetworkPolicy/admin", "create"),
        ("GlobalNetworkPolicy/security.deny", "create"),
        ("NetworkPolicy/dns", "create"),
    ]
    stored = get(oslo, "networkpolicies.projectcalico.org", "pass", "shop")
    assert stored["apiVersion"] == "projectcalico.org/v3"
    assert stored["metadata"]["labels"] == OURS
    assert list(stored["metadata"]["annotations"]) == ["clustermesh.io/policy-digest"]
    start = len(audit(oslo))
    again = run()
    assert (again["changed"], again["in_sync"], again["drifted"]) == (False, True, False)
    assert writes(oslo, start) == []


def test_drift_names_the_field_and_who_changed_it_and_is_undone(run, clusters):
    oslo = clusters[1]
    path = "/spec/egress/0/ports/0/port"
    patch = [{"op": "replace", "path": path, "value": 80}, {"op": "add", "path": "/spec/ingress", "value": [{}]}]
    edit = ("--type=json", f"--patch={json.dumps(patch)}", "--field-manager=mallory")
    kubectl(oslo, "-n", "shop", "patch", "networkpolicies.networking.k8s.io", "dns", *edit)
    kubectl(oslo, "label", "globalnetworksets.projectcalico.org", "offices", "set=home", "--overwrite",
            "--field-manager=eve")  # fmt: skip
    start = len(audit(oslo))
    report = run(mode="report")
    assert writes(oslo, start) == []
    assert (report["changed"], report["drifted"], report["in_sync"]) == (False, True, False)
    assert drift(report) == {
        "spec.egress[0].ports[0].port": (53, 80, "mallory"),
        "spec.ingress": (None, [{}], "mallory"),
        "metadata.labels.set": ("office", "home", "eve"),
    }
    assert drift(run()) == drift(report)
    found = get(oslo, "networkpolicies.networking.k8s.io", "dns", "shop")
    assert (found["spec"]["egress"], "ingress" in found["spec"]) == (DNS["egress"], False)
    assert run()["in_sync"]


def test_a_removed_field_and_a_removed_policy_come_back(run, clusters):
    oslo = clusters[1]
    patch = [{"op": "remove", "path": "/spec/egress"}]
    kubectl(oslo, "-n", "shop", "patch", "networkpolicies.networking.k8s.io", "dns", "--type=json",
            f"--patch={json.dumps(patch)}")  # fmt: skip
    kubectl(oslo, "delete", "clusternetworkpolicies", "admin")
    answer = run()
    assert list(drift(answer)) == ["spec.egress"]
    assert actions(answer)["ClusterNetworkPolicy/admin"] == "create"
    assert run()["in_sync"]


def test_a_change_of_the_source_is_an_update_and_no_drift(run, clusters):
    paris = clusters[0]
    changed = copy.deepcopy(WANTED[1])
    changed["spec"]["nets"] = ["10.1.4.0/24"]
    apply(paris, changed)
    answer = run()
    assert (answer["changed"], answer["drifted"]) == (True, False)
    assert {name for name, action in actions(answer).items() if action != "keep"} == {"GlobalNetworkSet/offices"}
    assert run()["in_sync"]


def test_defaults_that_the_server_adds_are_no_drift(run, clusters):
    bare = item("networking.k8s.io/v1", "NetworkPolicy", "bare", {"podSelector": {}, "ingress": [{}]}, "shop")
    bare["spec"]["ingress"] = [{"ports": [{"port": 80}]}]
    kubectl(clusters[1], "apply", "-f", "-", stdin=yaml.safe_dump(bare))  # of others, defaults owned by them
    options = {"definitions": [bare], "policy_set": "files"}
    assert "adopt: true" in run(**options)["msg"]
    assert run(**options, adopt=True)["changed"]
    again = run(**options)
    assert (again["changed"], again["drifted"], again["in_sync"]) == (False, False, True)
    gone = run(state="absent", policy_set="files")
    assert actions(gone) == {"NetworkPolicy/bare": "delete"}


def test_only_what_is_of_the_set_is_ever_removed(run, clusters):
    paris, oslo = clusters
    foreign = item("networking.k8s.io/v1", "NetworkPolicy", "foreign", DNS, "shop")
    other = item("networking.k8s.io/v1", "NetworkPolicy", "other", DNS, "shop")
    apply(oslo, foreign)
    assert run(definitions=[other], policy_set="other")["changed"]
    kubectl(paris, "delete", "globalnetworkpolicies.crd.projectcalico.org", "security.deny")
    answer = run()
    assert {name for name, action in actions(answer).items() if action == "delete"} == {
        "GlobalNetworkPolicy/security.deny"
    }
    found = names(oslo, "networkpolicies.networking.k8s.io")
    assert {f"networkpolicy.networking.k8s.io/{name}" for name in ("dns", "foreign", "other")} <= found
    refused = run(label_selector="nobody=has-this")
    assert "nothing is selected" in refused["msg"]
    assert run()["in_sync"]


def test_rules_rewrite_names_namespaces_labels_and_addresses(run, clusters):
    oslo = clusters[1]
    kubectl(oslo, "create", "namespace", "shop-north")
    rewrite = {
        "namespaces": {"shop": "shop-north"},
        "names": [{"match": "^", "replace": "north-"}],
        "set_labels": {"region": "north"},
        "remove_labels": ["set"],
        "cidrs": {"10.1.0.0/16": "10.2.0.0/16"},
    }
    assert run(rewrite=rewrite, policy_set="north")["changed"]
    sets = get(oslo, "globalnetworksets.projectcalico.org", "north-offices")
    assert sets["spec"]["nets"] == ["10.2.4.0/24"]
    assert sets["metadata"]["labels"] == {**OURS, "clustermesh.io/policy-set": "north", "region": "north"}
    assert get(oslo, "networkpolicies.networking.k8s.io", "north-dns", "shop-north")["spec"]["egress"]
    assert run(rewrite=rewrite, policy_set="north")["in_sync"]
    gone = run(state="absent", policy_set="north")
    kinds = [o["kind"] for o in gone["objects"]]
    assert kinds.index("GlobalNetworkSet") > kinds.index("NetworkPolicy")
    assert kinds[-1] == "Tier"
    assert run()["in_sync"]


def test_one_bad_policy_is_named_and_stops_neither_the_others_nor_removes_anything(run, clusters):
    oslo = clusters[1]
    network = "networking.k8s.io/v1"
    good = item(network, "NetworkPolicy", "good", DNS, "shop")
    assert run(definitions=[good], policy_set="mixed")["changed"]
    bad = [
        item(network, "NetworkPolicy", "homeless", DNS),
        item("v1", "Secret", "key", {}),
        item(network, "NetworkPolicy", "typo", {**DNS, "podSelectorr": {}}, "shop"),
    ]
    better = item(network, "NetworkPolicy", "better", DNS, "shop")
    answer = run(definitions=[*bad, better], policy_set="mixed")
    assert answer["failed"]
    for name in ("homeless", "Secret", "typo"):
        assert name in answer["msg"]
    assert actions(answer)["NetworkPolicy/better"] == "create"
    assert "networkpolicy.networking.k8s.io/good" in names(oslo, "networkpolicies.networking.k8s.io")
    away = item(network, "NetworkPolicy", "away", DNS, "nowhere")
    lost = item("projectcalico.org/v3", "GlobalNetworkPolicy", "none.x", {"tier": "none"})
    answer = run(definitions=[good, away, lost], policy_set="mixed")
    reasons = {o["name"]: o["reason"] for o in answer["objects"] if o["action"] == "skip"}
    assert "no namespace nowhere" in reasons["away"]
    assert "tier none" in reasons["none.x"]
    run(state="absent", policy_set="mixed")


def test_an_export_carries_nothing_of_its_cluster_and_is_a_source(direct, run, clusters):
    paris = clusters[0]
    exported = direct.run("policy_info", {"kubeconfig": str(paris.kubeconfig)})["definitions"]
    assert [d["kind"] for d in exported][:2] == ["Tier", "GlobalNetworkSet"]
    for definition in exported:
        assert set(definition) == {"apiVersion", "kind", "metadata", "spec"}
        assert set(definition["metadata"]) <= {"name", "namespace", "labels", "annotations"}
        assert "crd." not in definition["apiVersion"]
    assert run(definitions=exported)["in_sync"]


def test_a_source_that_does_not_answer_changes_nothing(direct, clusters):
    oslo = clusters[1]
    start = len(audit(oslo))
    source = {"host": "https://127.0.0.1:1", "api_key": "t0ps3cret"}
    answer = direct.run("policy", {"kubeconfig": str(oslo.kubeconfig), "source": source})
    assert answer["failed"]
    assert "t0ps3cret" not in json.dumps(answer)
    assert audit(oslo)[start:] == []
