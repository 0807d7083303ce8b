"""What must hold on a node."""

from __future__ import annotations

import pytest
from ansible_collections.clustermesh.core.plugins.filter.mesh_findings import mesh_findings
from ansible_collections.clustermesh.core.plugins.module_utils import _node

from tests.integration_modules.direct import Direct

GOOD = {
    "kernel": "6.1.0",
    "python": "3.11.2",
    "venv": True,
    "nftables_library": True,
    "systemd": 252,
    "vxlan": True,
    "nftables": True,
    "nexthops": True,
    "mtu": 1500,
    "clock_offset": 0.2,
}


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({}, []),
        ({"vxlan": None, "nftables": None}, []),
        ({"python": "3.9.2"}, ["node-python"]),
        ({"python": "", "venv": False, "nftables_library": False}, ["node-python"]),
        ({"venv": False}, ["node-venv"]),
        ({"nftables_library": False}, ["node-nftables"]),
        ({"systemd": 0}, ["node-systemd"]),
        ({"vxlan": False}, ["node-vxlan"]),
        ({"nexthops": False}, ["node-nexthops"]),
        ({"mtu": 1300}, ["node-mtu"]),
        ({"clock_offset": 30.0}, ["clock"]),
    ],
)
def test_each_missing_thing_is_one_finding_that_says_what_to_do(changes, ids):
    found = _node.findings("oslo/n1", {**GOOD, **changes}, "/usr/bin/python3")
    assert [item["id"] for item in found] == ids
    assert all(item["hint"] in item["text"] and "oslo/n1" in item["text"] for item in found)


def test_a_node_that_runs_the_image_needs_the_kernel_and_nothing_else():
    bare = {"python": "", "venv": False, "nftables_library": False, "systemd": 0}
    lacking = {"vxlan": False, "nftables": False, "nexthops": False, "mtu": 1300, "clock_offset": 30.0}
    assert _node.findings("oslo/n1", {**GOOD, **bare}, "/usr/bin/python3", "kubernetes") == []
    found = _node.findings("oslo/n1", {**GOOD, **bare, **lacking}, "/usr/bin/python3", "kubernetes")
    assert [item["id"] for item in found] == [
        "node-vxlan",
        "node-nftables",
        "node-nexthops",
        "node-mtu",
        "clock",
    ]


@pytest.mark.parametrize(("mode", "found"), [("systemd", ["node-python", "node-systemd"]), ("kubernetes", [])])
def test_a_program_that_is_not_there_is_a_finding_and_no_failure(mode, found, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    options = {"name": "oslo/n1", "python": "/no/python", "daemon_mode": mode}
    answer = Direct(tmp_path / "collections").run("node_preflight_info", options)
    assert [item["id"] for item in answer["findings"]] == [*found, "node-nexthops"]


def test_different_mtus_name_a_node_of_each():
    assert _node.unequal_mtus({"a": 1500, "b": 1500, "c": 0}) == []
    (found,) = _node.unequal_mtus({"a": 1500, "b": 9000})
    assert "a has 1500, b has 9000" in found["message"]


def seen(name, targets, **probe):
    return {"name": name, "targets": {f"192.0.2.{target[1:]}": target for target in targets}, "probe": probe}


def test_the_silence_of_a_node_that_did_not_listen_is_no_finding():
    off_and_meshed = [
        seen("n1", ["n2", "n3"], busy="", silent=["192.0.2.2", "192.0.2.3"]),
        seen("n2", ["n1"], busy="the port is taken", silent=[]),
    ]
    assert mesh_findings([], off_and_meshed) == []


def test_nodes_that_both_listened_and_did_not_hear_of_each_other_are_findings():
    cut = [
        seen("n1", ["n2"], busy="", silent=["192.0.2.2"]),
        seen("n2", ["n1"], busy="", silent=["192.0.2.1"]),
    ]
    assert [finding["cluster"] for finding in mesh_findings([], cut)] == ["n1,n2", "n2,n1"]
