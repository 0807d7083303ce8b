"""An Ansible inventory of a running lab: its clusters by kubeconfig, its machines by ssh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from .lab import Lab


def hosts(lab: Lab) -> dict[str, Any]:
    """Groups `mesh_clusters` (one host a cluster) and `mesh_nodes` (one host a machine, named CLUSTER-NODE)."""
    clusters = {
        c.name: {"ansible_connection": "local", "mesh_kubeconfig": str(c.kubeconfig)} for c in lab.clusters.values()
    }
    nodes = {
        f"{c.name}-{n.name}": {
            "ansible_host": n.address,
            "mesh_cluster": c.name,
            "mesh_node_name": n.name,
        }
        for c in lab.clusters.values()
        for n in c.nodes.values()
        if lab.machines
    }
    login = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(lab.keys.identity),
        "ansible_ssh_common_args": " ".join(lab.keys.options()),
    }
    local = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    return {
        "mesh_clusters": {"hosts": clusters, "vars": local},
        "mesh_nodes": {"hosts": nodes, "vars": login},
    }


def text(lab: Lab) -> str:
    """The inventory as YAML."""
    return yaml.safe_dump(hosts(lab), sort_keys=False)
