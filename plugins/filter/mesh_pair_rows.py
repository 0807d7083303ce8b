# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_pair_rows
short_description: The state of every pair, from both of its sides
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: One row a pair. P(clustermesh.core.mesh_table#filter) makes lines of a dictionary with the rows as C(pairs).
options:
  _input:
    description: Pairs, as P(clustermesh.core.mesh_pairs#filter) makes them.
    type: list
    elements: dict
    required: true
  results:
    description: Cluster to result of M(clustermesh.core.mesh_info), also of one that failed.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the pairs
  ansible.builtin.debug:
    msg: "{{ {'pairs': ['oslo', 'paris'] | clustermesh.core.mesh_pairs | clustermesh.core.mesh_pair_rows(results)} | clustermesh.core.mesh_table }}"
"""

RETURN = r"""
_value:
  description: Rows.
  type: list
  elements: dict
  sample:
    - {pair: oslo--paris, ready: true, connected: "yes", synced: "yes", routed: "yes", overlay: Enabled, nodes: 2+3, services: 4+5,
       endpoint_slices: 6+7, paths: 2/2+3/3, reason: ""}
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _info


class FilterModule:
    """Filters about pairs."""

    def filters(self):
        """By name."""
        return {"mesh_pair_rows": _info.pair_rows}
