"""Which clusters and nodes become hosts of an inventory."""

from __future__ import annotations

import pytest
from ansible_collections.clustermesh.core.plugins.module_utils import _inventory

BEHIND_AT = "(?:.*@)?([^@]+)"


def contexts(*names: str) -> dict:
    return {"contexts": [{"name": name} for name in names]}


def test_a_cluster_is_named_by_what_stands_behind_the_at():
    found = _inventory.clusters("f", contexts("admin@paris", "oslo", "x@test-1"), ["*@*", "oslo"], BEHIND_AT)
    assert [c["name"] for c in found] == ["paris", "oslo", "test-1"]
    assert found[0] == {"name": "paris", "kubeconfig": "f", "context": "admin@paris"}


@pytest.mark.parametrize(
    ("content", "pattern", "message"),
    [
        (contexts("admin@paris", "admin@oslo"), "(admin)@.*", "both name cluster admin"),
        (contexts("Admin_Paris"), "(.*)", "is no DNS label"),
        (contexts("arn:aws:paris"), "eks-(.*)", "does not match it with a group"),
        ("a text", BEHIND_AT, "no kubeconfig"),
    ],
)
def test_what_cannot_be_is_named(content, pattern, message):
    with pytest.raises(_inventory.BadInventory, match=message):
        _inventory.unique(_inventory.clusters("f", content, ["*"], pattern))


def test_only_names_labels_and_addresses_of_an_api_server_become_variables():
    labels = {"disk": "ssd", "evil": "{{ lookup('pipe', 'id') }}", "node-role.kubernetes.io/worker": ""}
    addresses = [{"type": "InternalIP", "address": "{{ 1 }}"}, {"type": "InternalIP", "address": "192.0.2.1"}]
    found = _inventory.node({"metadata": {"name": "n1", "labels": labels}, "status": {"addresses": addresses}})
    assert found == {
        "name": "n1",
        "address": "192.0.2.1",
        "roles": ["worker"],
        "labels": {"disk": "ssd", "node-role.kubernetes.io/worker": ""},
    }
    assert _inventory.node({"metadata": {"name": "{{ x }}"}}) is None
