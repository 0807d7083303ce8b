# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_table
short_description: The state of a mesh as lines for people
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: Lines with aligned columns, one a peer and one a node.
options:
  _input:
    description: Result of M(clustermesh.core.mesh_info).
    type: dict
    required: true
  only_wrong:
    description: Only what is not ready.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the mesh
  ansible.builtin.debug:
    msg: "{{ paris | clustermesh.core.mesh_table }}"
"""

RETURN = r"""
_value:
  description: Lines.
  type: list
  elements: str
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _info


class FilterModule:
    """Filters about the state of a mesh."""

    def filters(self):
        """By name."""
        return {"mesh_table": _info.table}
