# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_credentials
short_description: Credentials by which peers must be read after this run
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: What O(clustermesh.core.mesh_info#module:expected_credentials) takes, for the peers whose access is part of this run.
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
"""

EXAMPLES = r"""
- name: Show by which credentials the peers of oslo must be read
  ansible.builtin.debug:
    msg: "{{ ['paris', 'rome'] | clustermesh.core.mesh_credentials(hostvars) }}"
"""

RETURN = r"""
_value:
  description: Peer to digest of its kubeconfig.
  type: dict
  sample: {paris: 0123456789abcdef}
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about credentials."""

    def filters(self):
        """By name."""
        return {"mesh_credentials": _pairs.credentials}
