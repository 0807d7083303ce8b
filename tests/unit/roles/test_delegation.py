"""A play of nodes in their cluster: with the settings of the cluster, which no node has."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def of_clusters() -> set[str]:
    """Variables that the inventory guide calls a cluster's."""
    rows = re.findall(r"^\| `(mesh_\w+)` \| cluster \|", (ROOT / "docs/inventory.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    return set(rows)


def test_accounts_of_a_cluster_outside_of_the_run_are_asked_for_with_its_own_settings():
    used = set(re.findall(r"\bmesh_daemon_\w+", (ROOT / "roles/mesh_daemon/tasks/cluster.yml").read_text()))
    defaults = yaml.safe_load((ROOT / "roles/mesh_daemon/defaults/main.yml").read_text())
    wanted = {
        option: given
        for option, default in defaults.items()
        if option in used and (given := set(re.findall(r"\bmesh_\w+", str(default))) & of_clusters())
    }
    assert len(wanted) > 5
    plays = yaml.safe_load((ROOT / "playbooks/nodes.yml").read_text())
    name = "Get the accounts of a cluster that is not part of this run"
    (task,) = (task for play in plays for task in play.get("tasks") or () if task["name"] == name)
    passed = {
        option: set(re.findall(r"hostvars\[mesh_cluster\]\.(mesh_\w+)", str(text)))
        for option, text in task["vars"].items()
    }
    assert {option: passed.get(option) for option in wanted} == wanted
