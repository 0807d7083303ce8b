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


def inventory_of(clusters: int, nodes: int) -> tuple[list[str], dict]:
    """Names of nodes and variables of all hosts, as preflight of the clusters leaves them."""
    hosts: dict = {}
    names = []
    for c in range(clusters):
        addresses = {f"n{c:03}-{n}": [f"192.0.{c}.{n}"] for n in range(nodes)}
        hosts[f"c{c:03}"] = {"mesh_preflight_result": {"facts": {"nodes": addresses}}}
        hosts |= {name: {"mesh_cluster": f"c{c:03}"} for name in addresses}
        names += addresses
    return names, hosts


@pytest.mark.parametrize("forks", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("clusters", [1, 2, 3, 6, 7, 11, 45])
def test_nodes_that_probe_each_other_do_so_at_the_same_time(clusters, forks):
    names, hosts = inventory_of(clusters, 3)
    found = {name: _pairs.probe_targets(names, hosts, name, forks) for name in names}
    assert len({(item["turns"], tuple(item["left_out"])) for item in found.values()}) == 1
    turns, left_out = found[names[0]]["turns"], found[names[0]]["left_out"]
    assert turns <= 4
    by_turn = [
        [name for name in names if found[name]["address"] and found[name]["turn"] == turn] for turn in range(turns)
    ]
    for probing in by_turn:
        assert len(probing) <= forks
        for name in probing:
            assert set(found[name]["targets"].values()) == {
                other for other in probing if hosts[other]["mesh_cluster"] != hosts[name]["mesh_cluster"]
            }
    reached = {hosts[name]["mesh_cluster"] for name in names if found[name]["targets"]}
    assert reached == ({f"c{c:03}" for c in range(clusters)} - set(left_out) if clusters > 1 else set())
    assert (left_out == []) == (
        clusters == 1 or (forks > 2 and clusters <= 4 * forks) or (forks == 2 and clusters in (2, 6))
    )


def test_pods_to_reach_are_of_clusters_that_are_well_and_of_nodes_that_have_not_failed():
    def result(ready, *nodes):
        return {"mesh_validate_result": {"ready": ready, "pods": [{"node": node, "address": node} for node in nodes]}}

    hosts = {
        "b": result(True, "n1", "n2", "x1"),
        "c": result(True, "n1"),
        "d": result(False, "n1"),
        "e": {},
        "f": {"mesh_validate_result": {"failed": True, "msg": "does not answer"}},
        "g": {"mesh_validate_result": {"ready": True}},
        "b-1": {"mesh_cluster": "b", "mesh_node_name": "n1"},
        "x1": {"mesh_cluster": "b"},
        "c-1": {"mesh_cluster": "c", "mesh_node_name": "n1"},
    }
    found = _pairs.pods(["b", "c", "d", "e", "f", "g"], hosts, ["b-1", "x1"])
    assert {name: [pod["node"] for pod in some] for name, some in found.items()} == {"b": ["n2"], "c": ["n1"], "g": []}
