# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_misspelt
short_description: Variables that are nearly one of this collection
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: Names that begin with C(mesh_), that no playbook or role reads, and that differ little from one that is read.
options:
  _input:
    description: Names of variables.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show what is misspelt
  ansible.builtin.debug:
    msg: "{{ ['mesh_overlays', 'mesh_overlay', 'mesh_of_my_own'] | clustermesh.core.mesh_misspelt }}"
"""

RETURN = r"""
_value:
  description: One line a name, with the name that was probably meant.
  type: list
  elements: str
  sample: ["mesh_overlays is no variable of this collection; did you mean mesh_overlay?"]
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _variables


class FilterModule:
    """Filters about variables."""

    def filters(self):
        """By name."""
        return {"mesh_misspelt": _variables.misspelt}
