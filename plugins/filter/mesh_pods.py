# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_pods
short_description: Pods of peers that a node must reach
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - What role C(mesh_validate) saw of the peers' pods in this run. Without peers that are not well, and without pods of nodes
    that have failed in this run; nobody says that these run.
options:
  _input:
    description: Names of the peers.
    type: list
    elements: str
    required: true
  hosts:
    description: The variables of hosts by name, C(hostvars).
    type: dict
    required: true
  failed:
    description: Names of the nodes that have failed in this run.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Send packets to pods of rome
  clustermesh.core.pod_probe_info:
    pods: "{{ ['rome'] | clustermesh.core.mesh_pods(hostvars, ansible_play_hosts_all | difference(ansible_play_hosts)) }}"
"""

RETURN = r"""
_value:
  description: Name of a peer to its pods, as O(clustermesh.core.pod_probe_info#module:pods) takes them.
  type: dict
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about runs."""

    def filters(self):
        """By name."""
        return {"mesh_pods": _pairs.pods}
