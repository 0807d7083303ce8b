# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_outside
short_description: Peers of a cluster that are not part of a run
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - For each of them how to reach its API server, and C(peers), what O(clustermesh.core.peering#module:peers) takes for its half.
  - So that a run with C(--limit) makes both halves of the pairs of its clusters.
  - A peer that role C(mesh_access) (C(tasks_from=others)) asked in this run without an answer is left out.
options:
  _input:
    description: Pairs, as P(clustermesh.core.mesh_pairs#filter) makes them.
    type: list
    elements: dict
    required: true
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  hosts:
    description: The variables of hosts by name, C(hostvars).
    type: dict
    required: true
  run:
    description: Names of the clusters that are part of the run.
    type: list
    elements: str
    required: true
  overlay:
    description: Whether the mesh routes, or the underlay does, for pairs that do not say.
    type: str
    choices: [Enabled, Disabled]
    default: Enabled
"""

EXAMPLES = r"""
- name: Show which peers of oslo are left out
  ansible.builtin.debug:
    msg: "{{ pairs | clustermesh.core.mesh_outside('oslo', hostvars, ansible_play_hosts_all) | map(attribute='name') }}"
"""

RETURN = r"""
_value:
  description: Peers.
  type: list
  elements: dict
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about peers."""

    def filters(self):
        """By name."""
        return {"mesh_outside": _pairs.outside}
