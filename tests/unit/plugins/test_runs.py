"""What a run of a playbook tells of itself: misspelt variables, who waits for credentials, who is not judged."""

from __future__ import annotations

import re

import pytest
from ansible_collections.clustermesh.core.plugins.module_utils import _info, _pairs, _variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [("mesh_overlays", "mesh_overlay"), ("mesh_deamon_image", "mesh_daemon_image"), ("mesh_pair", "mesh_pairs")],
)
def test_a_variable_that_nothing_reads_and_that_is_nearly_another_is_named(name, meant):
    assert _variables.misspelt([name, meant]) == [
        f"{name} is no variable of this collection; did you mean {meant}?",
    ]


def test_variables_of_other_people_are_their_own():
    assert _variables.misspelt(["mesh_of_my_own", "mesh_region", "meshh_overlay", "ansible_host"]) == []


def test_what_roles_register_is_not_misspelt():
    registered = {
        name
        for file in _variables.ROOT.glob("roles/*/tasks/*.yml")
        for name in re.findall(r"register: (\S+)", file.read_text())
    }
    assert len(registered) > 20
    assert _variables.misspelt(registered) == []


def test_credentials_wait_for_peers_and_for_nodes_that_did_not_get_them():
    hosts = {
        "a": {},
        "b": {"mesh_validate_read": {"outdated": ["a"]}},
        "c": {"mesh_validate_read": {"outdated": []}},
        "d": {},  # failed before it was asked
        "a1": {"mesh_cluster": "a", "mesh_daemon_switched": {"changed": True, "restarted": ["agent"]}},
        "a2": {"mesh_cluster": "a", "mesh_daemon_switched": {"changed": False, "restarted": []}},
        "a3": {"mesh_cluster": "a", "mesh_daemon_switched": {"failed": True, "msg": "the agent did not get ready"}},
        "a4": {"mesh_cluster": "a"},
        "c1": {"mesh_cluster": "c"},
    }
    nodes = [name for name in hosts if len(name) == 2]
    assert _pairs.waiting(["b", "c", "d"], hosts, "a", nodes) == ["b", "d", "a3", "a4"]
    hosts["a"]["mesh_daemon_mode"] = "kubernetes"  # workloads have tokens of their pods
    assert _pairs.waiting(["b", "c", "d"], hosts, "a", nodes) == ["b", "d"]


def test_nobody_is_judged_by_a_peer_that_did_not_get_so_far():
    hosts = {"a": {"mesh_access_left_out": ["e"]}, "b": {}, "c": {}, "e": {}}
    hosts["d"] = {"mesh_preflight_result": {"facts": {"reachable": False}}}
    hosts["b"] = {"mesh_preflight_result": {"facts": {"reachable": True}}}
    assert _pairs.absent(list(hosts), hosts, "a", ["a", "b", "c"], ["a", "b"]) == ["c", "d", "e"]
    answer = {"controllers": [], "nodes": [], "peers": [{"peer": "b", "ready": True}, {"peer": "c", "ready": False}]}
    assert _info.is_complete(answer, ["b", "c", "d"], ["c", "d"])
    assert not _info.is_complete(answer, ["b", "c", "d"], ["d"])
    assert not _info.is_complete(answer, ["b", "d"], ["c"])
