# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_waiting
short_description: Who does not use the new credentials of a cluster yet
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: Peers that are not in sync by them, and nodes of the cluster on which the daemons were not restarted with them in this run.
options:
  _input:
    description: Names of peers.
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
  nodes:
    description: Names of hosts that are nodes, of any cluster.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show who waits for the new credentials of oslo
  ansible.builtin.debug:
    msg: "{{ ['paris', 'rome'] | clustermesh.core.mesh_waiting(hostvars, 'oslo', groups['mesh_nodes']) }}"
"""

RETURN = r"""
_value:
  description: Names of peers and of nodes.
  type: list
  elements: str
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about rotation."""

    def filters(self):
        """By name."""
        return {"mesh_waiting": _pairs.waiting}
