"""The inventory plugin against real API servers: clusters of a kubeconfig, nodes of their APIs, one of them dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clustermesh_lab.build import program

from tests.integration_modules.runner import ansible_tree, audit

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
PLUGIN = {"plugin": "clustermesh.core.kubeconfig"}


def plain(value: dict) -> object:
    """A string as it is; ansible-inventory marks those that must not be taken for templates."""
    return value.get("__ansible_unsafe", value)


def add_node(plane, name: str, address: str, **labels: str) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    kubectl = (*program("kubectl"), f"--kubeconfig={plane.kubeconfig}")
    subprocess.run([*kubectl, "apply", "-f", "-"], input=json.dumps(node), check=True, text=True, capture_output=True)
    status = json.dumps({"status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    argv = [*kubectl, "patch", "node", name, "--subresource=status", "--type=merge", "-p", status]
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture(scope="module")
def merged(paris, oslo, tmp_path_factory) -> Path:
    """A kubeconfig of paris, oslo and one that does not answer."""
    add_node(paris, "a1", "192.0.2.1", **{"topology.kubernetes.io/zone": "z1", "disk": "ssd"})
    add_node(paris, "a2", "192.0.2.2", **{"node-role.kubernetes.io/control-plane": ""})
    add_node(oslo, "a1", "2001:db8::1", disk="hdd")
    content = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
    for name, plane in (("paris", paris), ("oslo", oslo), ("dead", oslo)):
        own = yaml.safe_load(plane.kubeconfig.read_text())
        cluster, user = own["clusters"][0]["cluster"], own["users"][0]["user"]
        if name == "dead":
            cluster = {**cluster, "server": "https://127.0.0.1:1"}
        content["clusters"].append({"name": name, "cluster": cluster})
        content["users"].append({"name": name, "user": user})
        content["contexts"].append({"name": f"admin@{name}", "context": {"cluster": name, "user": name}})
    file = tmp_path_factory.mktemp("inventory") / "all.kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def listed(merged, tmp_path):
    """Runs ansible-inventory with options of the plugin: (exit code, inventory, what it says)."""
    tree = ansible_tree(tmp_path / "collections")

    def listed(**options) -> tuple[int, dict, str]:
        source = merged.parent / "mesh.kubeconfig.yml"
        source.write_text(yaml.safe_dump({**PLUGIN, "kubeconfigs": [merged.name], **options}))
        env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tree), "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1"}
        argv = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", str(source), "--list", "--export"]
        ran = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=120)
        return (
            ran.returncode,
            json.loads(ran.stdout, object_hook=plain) if ran.returncode == 0 else {},
            " ".join(ran.stderr.split()),
        )

    return listed


def test_contexts_are_clusters_their_nodes_are_hosts_and_a_dead_one_is_a_warning(listed, merged):
    keyed = [{"key": "mesh_node_labels['topology.kubernetes.io/zone']", "prefix": "zone"}]
    code, found, said = listed(keyed_groups=keyed, compose={"ansible_user": "'admin'"})
    assert code == 0, said
    assert sorted(found["mesh_clusters"]["hosts"]) == ["dead", "oslo", "paris"]
    assert sorted(found["mesh_nodes"]["hosts"]) == ["oslo-a1", "paris-a1", "paris-a2"]
    assert found["zone_z1"]["hosts"] == ["paris-a1"]
    variables = found["_meta"]["hostvars"]
    assert variables["paris"]["mesh_kubeconfig"] == str(merged)
    assert (variables["paris"]["mesh_context"], variables["paris"]["ansible_connection"]) == ("admin@paris", "local")
    node = variables["oslo-a1"]
    assert (node["ansible_host"], node["mesh_cluster"], node["mesh_node_name"]) == ("2001:db8::1", "oslo", "a1")
    assert node["ansible_user"] == "admin"
    assert "cluster dead (context admin@dead" in said
    assert "it has no nodes in this inventory" in said


def test_a_dead_cluster_is_an_error_if_asked_for(listed):
    code, _, said = listed(fail_on_unreachable=True)
    assert code != 0
    assert "cluster dead" in said


def test_contexts_nodes_and_names_are_chosen(listed):
    code, found, said = listed(
        contexts=["*@paris", "*@oslo"], node_label_selector="disk!=hdd", exclude_roles=["control-plane"],
        node_host="{node}.{cluster}.example", nodes_group="workers",
    )  # fmt: skip
    assert (code, said.count("WARNING")) == (0, 0), said
    assert sorted(found["mesh_clusters"]["hosts"]) == ["oslo", "paris"]
    assert found["workers"]["hosts"] == ["a1.paris.example"]


def test_two_nodes_of_one_host_name_are_an_error(listed):
    code, _, said = listed(contexts=["*@paris"], node_host="same")
    assert code != 0
    assert "two hosts are named same" in said


def test_a_cache_keeps_nodes_but_no_credential_and_asks_only_who_did_not_answer(listed, oslo, tmp_path, merged):
    cache = tmp_path / "cache"
    options = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(cache)}
    assert listed(**options)[0] == 0
    kept = "".join(file.read_text() for file in cache.iterdir())
    user = yaml.safe_load(merged.read_text())["users"][0]["user"]
    assert "192.0.2.1" in kept
    assert not any(str(value) in kept for value in user.values())
    start = len(audit(oslo))
    code, found, said = listed(**options)
    assert (code, len(found["mesh_nodes"]["hosts"])) == (0, 3)
    assert audit(oslo)[start:] == []
    assert "cluster dead" in said
