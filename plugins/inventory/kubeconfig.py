# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: kubeconfig
short_description: Clusters from kubeconfigs, and their nodes
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Makes a host of each context of kubeconfigs, with local connection, C(mesh_kubeconfig) and C(mesh_context).
  - Makes a host of each Node of these clusters, with C(mesh_cluster), C(mesh_node_name), C(mesh_node_roles), C(mesh_node_labels)
    and the node's InternalIP as C(ansible_host).
  - Use a file whose name ends in C(kubeconfig.yml) or C(kubeconfig.yaml).
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [clustermesh.core.kubeconfig]
  kubeconfigs:
    description: Paths of kubeconfigs; relative ones start at the inventory file. C($KUBECONFIG) or C(~/.kube/config) by default.
    type: list
    elements: str
  contexts:
    description: Contexts that are clusters of the mesh; C(*) and C(?) stand for any characters.
    type: list
    elements: str
    default: ['*']
  cluster_name:
    description:
      - Regular expression on the whole name of a context; its first group is the name of the cluster, a DNS label.
      - By default what stands behind the last C(@).
    type: str
    default: (?:.*@)?([^@]+)
  clusters_group:
    description: Group of the clusters.
    type: str
    default: mesh_clusters
  nodes:
    description: Whether to list Nodes. Without them no API server is asked.
    type: bool
    default: true
  nodes_group:
    description: Group of the nodes.
    type: str
    default: mesh_nodes
  node_label_selector:
    description: Only Nodes with these labels, in the grammar of Kubernetes' label selectors.
    type: str
  exclude_roles:
    description: Without Nodes that have one of these roles, by their label C(node-role.kubernetes.io/ROLE).
    type: list
    elements: str
    default: []
  node_host:
    description: Name of a node's host; C({cluster}) and C({node}) stand for the names of cluster and Node.
    type: str
    default: '{cluster}-{node}'
  request_timeout:
    description: Seconds after which a request without answer has failed.
    type: float
    default: 15.0
  fail_on_unreachable:
    description: Whether a cluster whose Nodes cannot be listed is an error. It is a warning otherwise, and has no nodes.
    type: bool
    default: false
extends_documentation_fragment:
  - constructed
  - inventory_cache
requirements:
  - kubernetes >= 24.2.0
"""

EXAMPLES = r"""
# mesh.kubeconfig.yml: all contexts of the usual kubeconfig, workers only
plugin: clustermesh.core.kubeconfig
exclude_roles: [control-plane]

---
# two kubeconfigs, contexts like eks-prod-paris, ssh user and groups by zone
plugin: clustermesh.core.kubeconfig
kubeconfigs: [secrets/eu.kubeconfig, secrets/us.kubeconfig]
contexts: ['*-prod-*']
cluster_name: '.*-prod-(.+)'
compose:
  ansible_user: "'admin'"
keyed_groups:
  - {key: "mesh_node_labels['topology.kubernetes.io/zone']", prefix: zone}
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable

from ansible_collections.clustermesh.core.plugins.module_utils import _inventory
from ansible_collections.clustermesh.core.plugins.module_utils._client import MISSING, Client, ClusterError

try:
    import yaml
except ImportError:
    yaml = None


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """The plugin."""

    NAME = "clustermesh.core.kubeconfig"

    def verify_file(self, path):
        """Whether the file is one of ours, by its name."""
        return super().verify_file(path) and path.endswith(("kubeconfig.yml", "kubeconfig.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        """Fills the inventory."""
        super().parse(inventory, loader, path)
        self._read_config_data(path)
        if MISSING is not None:
            raise AnsibleParserError(f"{self.NAME} needs the Python library kubernetes >= 24.2.0: {MISSING}")
        try:
            found = self._clusters(Path(path).absolute().parent)
        except _inventory.BadInventory as problem:
            raise AnsibleParserError(f"{path}: {problem}") from problem
        self.inventory.add_group(self.get_option("clusters_group"))
        for cluster in found:
            self._add_cluster(cluster)
        if self.get_option("nodes"):
            self.inventory.add_group(self.get_option("nodes_group"))
            for cluster, nodes in self._nodes(found, path, cache):
                for node in nodes:
                    self._add_node(cluster, node)

    def _clusters(self, directory):
        paths = self.get_option("kubeconfigs") or os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)
        found = []
        for given in filter(None, paths):
            path = str(directory / Path(given).expanduser())
            try:
                with open(path, encoding="utf-8") as stream:
                    content = yaml.safe_load(stream)
            except (OSError, UnicodeDecodeError) as problem:
                raise _inventory.BadInventory(f"{path}: {problem}") from problem
            except yaml.YAMLError as problem:  # without the lines that it quotes: they may be keys
                raise _inventory.BadInventory(f"{path}: is not YAML") from problem
            found += _inventory.clusters(path, content, self.get_option("contexts"), self.get_option("cluster_name"))
        return _inventory.unique(found)

    def _nodes(self, clusters, path, cache):
        """(cluster, nodes) of every cluster that answers, or that the cache knows."""
        key = self.get_cache_key(path)
        uses_cache = self.get_option("cache")
        known = dict(self._cache.get(key) or {}) if uses_cache and cache else {}
        asked = [cluster for cluster in clusters if _cache_name(cluster) not in known]
        with ThreadPoolExecutor(max_workers=16) as pool:
            for cluster, nodes in zip(asked, pool.map(self._listed, asked)):
                if nodes is not None:
                    known[_cache_name(cluster)] = nodes
        if uses_cache:
            self._cache[key] = known
        return [(cluster["name"], known.get(_cache_name(cluster)) or []) for cluster in clusters]

    def _listed(self, cluster):
        """Nodes of a cluster, None when it does not answer."""
        timeout = self.get_option("request_timeout")
        try:
            items = Client({**cluster, "request_timeout": timeout}).items(
                "/api/v1/nodes", self.get_option("node_label_selector")
            )
        except ClusterError as problem:
            text = f"cluster {cluster['name']} (context {cluster['context']} of {cluster['kubeconfig']}): {problem}"
            if self.get_option("fail_on_unreachable"):
                raise AnsibleParserError(text) from problem
            self.display.warning(f"{text}; it has no nodes in this inventory")
            return None
        nodes = [_inventory.node(item) for item in items]
        return [node for node in nodes if node]

    def _add_cluster(self, cluster):
        name = cluster["name"]
        self._add(
            name,
            self.get_option("clusters_group"),
            ansible_connection="local",
            ansible_python_interpreter=sys.executable,
            mesh_kubeconfig=cluster["kubeconfig"],
            mesh_context=cluster["context"],
        )

    def _add_node(self, cluster, node):
        if set(node["roles"]) & set(self.get_option("exclude_roles")):
            return
        name = self.get_option("node_host").replace("{cluster}", cluster).replace("{node}", node["name"])
        if name in self.inventory.hosts:
            raise AnsibleParserError(f"two hosts are named {name}; write node_host with {{cluster}} and {{node}}")
        address = {"ansible_host": node["address"]} if node["address"] else {}
        self._add(
            name,
            self.get_option("nodes_group"),
            mesh_cluster=cluster,
            mesh_node_name=node["name"],
            mesh_node_roles=node["roles"],
            mesh_node_labels=node["labels"],
            **address,
        )

    def _add(self, name, group, **variables):
        self.inventory.add_host(name, group=group)
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)


def _cache_name(cluster):
    return f"{cluster['kubeconfig']}#{cluster['context']}"
