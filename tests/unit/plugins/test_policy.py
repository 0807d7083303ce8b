"""Policies as two clusters compare them: names, labels, selection, rewriting, drift."""

from __future__ import annotations

import json

import pytest
from ansible_collections.clustermesh.core.plugins.module_utils import (
    _policies,
    _policy_drift,
    _policy_plan,
    _policy_report,
)
from ansible_collections.clustermesh.core.plugins.module_utils._policies import BadPolicy
from ansible_collections.clustermesh.core.plugins.module_utils._policy_rewrite import Rewrite

STORAGE, PUBLIC = "crd.projectcalico.org/v1", "projectcalico.org/v3"


def item(kind: str, name: str, spec: dict | None = None, version: str = PUBLIC, **meta) -> dict:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec or {}}


def policy(*args, **more) -> _policies.Policy:
    (found,), refusals = _policies.from_definitions([item(*args, **more)])
    assert refusals == []
    return found


def stored(wanted: _policies.Policy, version: str = PUBLIC, **changed) -> dict:
    """As a server has it that adds nothing."""
    plain = _policy_plan.manifest(wanted, version, "default")
    made = _policy_drift.made(wanted.kind, plain)
    found = _policy_plan.manifest(wanted, version, "default", made=made)
    return {**found, "spec": {**found["spec"], **changed}}


@pytest.mark.parametrize(
    ("version", "name", "tier", "expected"),
    [
        (STORAGE, "default.web", "default", "web"),
        (PUBLIC, "web", None, "web"),
        (PUBLIC, "default.web", None, "web"),
        (STORAGE, "security.web", "security", "security.web"),
    ],
)
def test_a_policy_of_calico_has_one_name_whichever_api_serves_it(version, name, tier, expected):
    found = policy("GlobalNetworkPolicy", name, {"tier": tier} if tier else {}, version=version)
    assert found.name == expected
    back = _policy_plan.manifest(found, STORAGE)["metadata"]["name"]
    assert back == (expected if tier == "security" else f"default.{expected}")


def test_labels_that_calico_hides_in_an_annotation_count():
    hidden = {"projectcalico.org/metadata": json.dumps({"labels": {"set": "office"}, "uid": "x"})}
    found = policy("GlobalNetworkSet", "offices", version=STORAGE, annotations=hidden)
    assert (found.labels, found.annotations) == ({"set": "office"}, {})


def test_what_belongs_to_one_cluster_is_left_behind():
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"}
    labels = {"projectcalico.org/tier": "default", "app.kubernetes.io/managed-by": "clustermesh", "team": "web"}
    found = policy("Tier", "security", uid="x", resourceVersion="5", annotations=annotations, labels=labels)
    assert _policy_plan.manifest(found, PUBLIC)["metadata"] == {
        "name": "security",
        "labels": {"team": "web"},
        "annotations": {"note": "kept"},
    }


def test_what_a_controller_or_calico_keeps_is_not_replicated():
    kinds = _policies.KINDS
    owned = item("GlobalNetworkPolicy", "x", ownerReferences=[{"kind": "Installation", "controller": True}])
    of_tier = item("GlobalNetworkPolicy", "x", ownerReferences=[{"kind": "Tier", "controller": True}])
    assert not _policies.is_native(kinds["GlobalNetworkPolicy"], owned)
    assert _policies.is_native(kinds["GlobalNetworkPolicy"], of_tier)
    assert not _policies.is_native(kinds["Tier"], item("Tier", "default"))
    assert not _policies.is_native(kinds["CalicoNetworkPolicy"], item("NetworkPolicy", "knp.default.dns"))


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=shop", True),
        ("app==shop,tier in (a, b)", True),
        ("tier notin (a,b)", False),
        ("app!=shop", False),
        ("missing!=x", True),
        ("!missing", True),
        ("app,!tier", False),
    ],
)
def test_label_selectors_mean_what_kubernetes_means(selector, matches):
    assert _policies.label_matcher(selector)({"app": "shop", "tier": "a"}) is matches


@pytest.mark.parametrize("selector", ["app in shop", "=x", "a=b=c", "(a)", "a b"])
def test_a_bad_label_selector_is_named(selector):
    with pytest.raises(BadPolicy, match="label_selector"):
        _policies.label_matcher(selector)


def test_addresses_move_with_the_longest_prefix_that_holds_them():
    cidrs = {"10.0.0.0/8": "11.0.0.0/8", "10.1.0.0/16": "10.9.0.0/16", "fd00:1::/64": "fd00:2::/64"}
    nets = ["10.1.2.0/24", "10.2.0.5", "192.0.2.0/24", "fd00:1::5/128", "nonsense", "0.0.0.0/0"]
    ((made,), _) = Rewrite({"cidrs": cidrs}).policies([policy("GlobalNetworkSet", "x", {"nets": nets})])
    assert made.spec["nets"] == ["10.9.2.0/24", "11.2.0.5", "192.0.2.0/24", "fd00:2::5/128", "nonsense", "0.0.0.0/0"]


def test_selectors_of_a_renamed_namespace_follow_and_what_cannot_is_told():
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
    spec = {"ingress": [{"from": [peer]}]}
    plain = policy("NetworkPolicy", "x", spec, version="networking.k8s.io/v1", namespace="shop")
    text = policy("GlobalNetworkPolicy", "y", {"namespaceSelector": "projectcalico.org/name == 'shop'"})
    made, warnings = Rewrite({"namespaces": {"shop": "store"}}).policies([plain, text])
    assert made[0].namespace == "store"
    moved = made[0].spec["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"]
    assert moved == {"kubernetes.io/metadata.name": "store"}
    (warning,) = warnings
    assert "GlobalNetworkPolicy y" in warning


def test_a_renamed_tier_takes_its_policies_with_it():
    both = [policy("Tier", "security"), policy("GlobalNetworkPolicy", "security.deny", {"tier": "security"})]
    made, _ = Rewrite({"names": [{"match": "^", "replace": "eu-"}]}).policies(both)
    assert [m.name for m in made] == ["eu-security", "eu-security.eu-deny"]
    assert made[1].spec["tier"] == "eu-security"
    (alone,), _ = Rewrite({"names": [{"match": "^", "replace": "eu-"}]}).policies(both[1:])
    assert (alone.name, alone.tier) == ("security.eu-deny", "security")


@pytest.mark.parametrize(
    "rules",
    [
        {"cidrs": {"10.0.0.0/8": "10.1.0.0/16"}},
        {"cidrs": {"10.0.0.0/8": "fd00::/8"}},
        {"cidrs": {"shop": "10.0.0.0/8"}},
        {"names": [{"match": "(", "replace": ""}]},
    ],
)
def test_a_rule_that_cannot_be_is_refused(rules):
    with pytest.raises(BadPolicy, match="rewrite"):
        Rewrite(rules)


def test_what_still_stands_as_written_is_as_wanted_though_the_server_added_defaults():
    wanted = policy("Tier", "security", {"order": 5})
    defaulted = stored(wanted)
    defaulted["spec"] = {**wanted.spec, "defaultAction": "Deny"}
    made = _policy_drift.made(wanted.kind, defaulted)
    defaulted["metadata"]["annotations"][_policies.DIGEST] = f"{_policy_drift.asked(wanted)}.{made}"
    assert _policy_drift.compare(wanted, defaulted) == (True, [])
    defaulted["spec"]["defaultAction"] = "Pass"
    is_as_wanted, drift = _policy_drift.compare(wanted, defaulted)
    assert not is_as_wanted
    assert [(d["path"], d["have"]) for d in drift] == [("spec.defaultAction", "Pass")]


def test_the_last_writer_of_a_field_is_named():
    def entry(manager: str, time: str, spec: dict) -> dict:
        return {"manager": manager, "operation": "Update", "time": time, "fieldsV1": {"f:spec": spec}}

    wanted = policy("Tier", "security", {"order": 5})
    changed = stored(wanted, order=7, extra=1)
    changed["metadata"]["managedFields"] = [
        entry("clustermesh-ansible", "2026-01-02T00:00:00Z", {"f:order": {}}),
        entry("helm", "2026-01-01T00:00:00Z", {"f:extra": {}}),  # before us, so it is none of this
        entry("eve", "2026-01-03T00:00:00Z", {"f:order": {}}),
    ]
    _, drift = _policy_drift.compare(wanted, changed)
    assert drift == [{"path": "spec.order", "want": 5, "have": 7, "manager": "eve", "time": "2026-01-03T00:00:00Z"}]


def target(*items: dict, namespaces=("shop",)) -> _policy_plan.Target:
    found = {}
    for one in items:
        kind = _policies.kind_of(one["apiVersion"], one["kind"])
        found[_policies.canonical(kind, one).key] = one
    return _policy_plan.Target(dict.fromkeys(_policies.KINDS, PUBLIC), found, set(namespaces))


def test_another_sets_policies_are_neither_taken_over_nor_removed():
    wanted = policy("Tier", "security")
    other = stored(wanted)
    other["metadata"]["labels"][_policies.SET_LABEL] = "other"
    (step,) = _policy_plan.plan([wanted], target(other), "default")
    assert (step.action, "policy set other" in step.reason) == ("leave", True)
    assert _policy_plan.plan_gone((), target(other), "default") == []
    (step,) = _policy_plan.plan([wanted], target(other), "default", adopt=True)
    assert step.action == "update"


def test_two_policies_of_one_name_after_rewriting_are_told():
    first, second = policy("Tier", "a"), policy("Tier", "b")
    made, _ = Rewrite({"names": [{"match": ".*", "replace": "x"}]}).policies([first, second])
    steps = _policy_plan.plan(made, target(), "default")
    assert [step.action for step in steps] == ["create", "skip"]


def test_lists_of_kubectl_are_taken_apart_and_other_kinds_refused():
    made = {"apiVersion": "v1", "kind": "List", "items": [item("Tier", "a"), {"apiVersion": "v1", "kind": "Secret"}]}
    policies, (refusal,) = _policies.from_definitions([made])
    assert [p.name for p in policies] == ["a"]
    assert "Secret" in refusal


def test_a_source_is_reached_as_the_inventory_says_and_an_unknown_one_is_named():
    hosts = {"paris": {"mesh_kubeconfig": "p.kubeconfig", "mesh_context": ""}, "oslo": {}}
    sets = [{"name": "a", "source": "paris"}, {"name": "b", "files": ["x.yml"]}]
    assert _policy_report.sources(sets, hosts) == {"paris": {"kubeconfig": "p.kubeconfig"}}
    with pytest.raises(_policy_report.UnknownSource, match="policy set c: source is rome"):
        _policy_report.sources([{"name": "c", "source": "rome"}], hosts)


def test_drift_is_told_in_one_line_a_field():
    field = {"path": "spec.order", "want": 5, "have": None, "manager": "", "time": ""}
    row = {"kind": "Tier", "namespace": "", "name": "security", "action": "update", "reason": "", "drift": [field]}
    kept = {**row, "name": "kept", "action": "keep", "drift": []}
    assert list(_policy_report.lines({"objects": [row, kept]})) == [
        "Tier security: update",
        "Tier security: spec.order is absent, not 5; who changed it is not recorded",
    ]
