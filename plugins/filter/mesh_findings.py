# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_findings
short_description: What stands against meshing clusters
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: Looks at each cluster and at every pair, for ids and address ranges that clash.
options:
  _input:
    description: Facts of clusters, RV(clustermesh.core.preflight_info#module:facts) of each.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what stands against meshing
  ansible.builtin.debug:
    msg: "{{ [paris.facts, oslo.facts] | clustermesh.core.mesh_findings }}"
"""

RETURN = r"""
_value:
  description: Findings, empty when all is well.
  type: list
  elements: dict
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _preflight


class FilterModule:
    """Filters about preflight."""

    def filters(self):
        """By name."""
        return {"mesh_findings": _preflight.findings}
