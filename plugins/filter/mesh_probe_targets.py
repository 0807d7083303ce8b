# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_probe_targets
short_description: Nodes of other clusters that a node is to reach on the overlay's port
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - The addresses of a sample of nodes. Nodes reach each other only while they probe at the same time, which no more of them do than
    there are forks. So the nodes of as many clusters as there are forks probe in one turn, and there are at most four turns.
  - Addresses are those that the clusters' API servers tell (InternalIP), of the family of the node's own.
options:
  _input:
    description: Names of hosts that are nodes and part of this run.
    type: list
    elements: str
    required: true
  hosts:
    description: The variables of hosts by name, C(hostvars).
    type: dict
    required: true
  node:
    description: Name of the host that is to probe.
    type: str
    required: true
  forks:
    description: How many hosts run at the same time.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Show whom this node probes
  ansible.builtin.debug:
    msg: "{{ groups['mesh_nodes'] | clustermesh.core.mesh_probe_targets(hostvars, inventory_hostname, ansible_forks) }}"
"""

RETURN = r"""
_value:
  description:
    - C(address) of the node itself, empty when it is not in the sample or unknown, and C(targets), address to name.
    - C(turn), from 0, of C(turns), and C(left_out), the clusters that have no turn.
  type: dict
  sample: {address: 192.0.2.11, targets: {192.0.2.21: paris-1}, turn: 0, turns: 1, left_out: []}
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about probes."""

    def filters(self):
        """By name."""
        return {"mesh_probe_targets": _pairs.probe_targets}
