# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_node_names
short_description: Names of the Nodes of a cluster that the inventory lists
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: The variable C(mesh_node_name), or else the inventory name, of the hosts whose C(mesh_cluster) is the cluster.
options:
  _input:
    description: Names of hosts.
    type: list
    elements: str
    required: true
  hosts:
    description: The variables of hosts by name, C(hostvars).
    type: dict
    required: true
  cluster:
    description: Name of the cluster.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the nodes of oslo
  ansible.builtin.debug:
    msg: "{{ groups['mesh_nodes'] | clustermesh.core.mesh_node_names(hostvars, 'oslo') }}"
"""

RETURN = r"""
_value:
  description: Names of Nodes.
  type: list
  elements: str
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about nodes."""

    def filters(self):
        """By name."""
        return {"mesh_node_names": _pairs.node_names}
