"""When an object is as wanted, and what a diff shows."""

from __future__ import annotations

import pytest
from ansible_collections.clustermesh.core.plugins.module_utils import _objects

ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "reader", "namespace": "here"},
    "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]}],
}


def stored(definition: dict, fields: dict | None = None, **changes) -> dict:
    meta = {**definition["metadata"], "uid": "1", "resourceVersion": "7"}
    if fields is not None:
        meta["managedFields"] = [{"manager": _objects.MANAGER, "operation": "Apply", "fieldsV1": fields}]
    return {**definition, "metadata": meta, **changes}


def test_what_the_server_adds_is_no_difference():
    assert _objects.is_as_wanted(ROLE, stored(ROLE, status={"seen": True}))


@pytest.mark.parametrize("empty", [{}, [], "", 0, False])
def test_an_empty_field_that_the_server_dropped_is_no_difference(empty):
    assert _objects.is_as_wanted({**ROLE, "extra": empty}, stored(ROLE))


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [*ROLE["rules"], *ROLE["rules"]],
        [{**ROLE["rules"][0], "verbs": ["get", "list"]}],
        [{**ROLE["rules"][0], "resourceNames": ["b"]}],
    ],
)
def test_other_rules_are_a_difference(rules):
    assert not _objects.is_as_wanted({**ROLE, "rules": rules}, stored(ROLE))


def test_a_field_that_we_applied_once_and_no_longer_want_is_a_difference():
    fields = {"f:spec": {"f:import": {"f:podCIDRs": {}}, "f:syncOptions": {}}}
    wanted = {**ROLE, "spec": {"syncOptions": {}}}
    assert not _objects.is_as_wanted(wanted, stored({**ROLE, "spec": {"import": {"podCIDRs": ["x"]}}}, fields))


def test_a_field_of_somebody_else_is_no_difference():
    item = stored({**ROLE, "metadata": {**ROLE["metadata"], "annotations": {"theirs": "1"}}}, {"f:rules": {}})
    assert _objects.is_as_wanted(ROLE, item)


def test_items_of_keyed_lists_and_sets_are_looked_up():
    wanted = {**ROLE, "ports": [{"name": "http", "port": 80}], "set": ["a"]}
    kept = {
        "f:ports": {'k:{"name":"http","protocol":"TCP"}': {".": {}, "f:port": {}, "f:name": {}}},
        "f:set": {'v:"a"': {}},
    }
    assert _objects.is_as_wanted(wanted, stored(wanted, kept))
    for gone in ({"f:ports": {'k:{"name":"dns"}': {}}}, {"f:set": {'v:"b"': {}}}):
        assert not _objects.is_as_wanted(wanted, stored(wanted, gone))


def test_secrets_show_as_digests_that_tell_values_apart():
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    one, two = (_objects.shown(_objects.owned({**secret, "stringData": {"kubeconfig": v}})) for v in ("one", "two"))
    assert one["data"]["kubeconfig"].startswith("sha256:")
    assert one["data"] != two["data"]
    assert "b25l" not in str(one)


def test_our_label_joins_those_of_the_definition():
    labels = _objects.owned({**ROLE, "metadata": {"name": "x", "labels": {"a": "b"}}})["metadata"]["labels"]
    assert labels == {"a": "b", _objects.LABEL: _objects.OWNER}
