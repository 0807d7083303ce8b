# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_absent
short_description: Peers that a cluster is not to be judged by after a run
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: Those that failed in this run, did not answer preflight, or were outside of it and left out.
options:
  _input:
    description: Names of all clusters.
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
  run:
    description: Names of the clusters that the run began with, C(ansible_play_hosts_all).
    type: list
    elements: str
    required: true
  left:
    description: Names of those that have not failed since, C(ansible_play_hosts).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show who is not judged
  ansible.builtin.debug:
    msg: >-
      {{ groups['mesh_clusters']
         | clustermesh.core.mesh_absent(hostvars, inventory_hostname, ansible_play_hosts_all, ansible_play_hosts) }}
"""

RETURN = r"""
_value:
  description: Names.
  type: list
  elements: str
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about runs."""

    def filters(self):
        """By name."""
        return {"mesh_absent": _pairs.absent}
