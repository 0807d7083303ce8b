# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_reach
short_description: How to reach clusters that are not part of a run
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: What the inventory says of each, as options of the modules; empty where it says nothing.
options:
  _input:
    description: Names of clusters.
    type: list
    elements: str
    required: true
  hosts:
    description: The variables of hosts by name, C(hostvars).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the kubeconfigs of two clusters
  ansible.builtin.debug:
    msg: "{{ ['oslo', 'rome'] | clustermesh.core.mesh_reach(hostvars) | map(attribute='kubeconfig') }}"
"""

RETURN = r"""
_value:
  description:
    - Dictionaries of C(name), C(kubeconfig), C(context), C(host), C(api_key), C(ca_cert), C(server), C(tls_server_name) and
      C(pod_cidrs). To be kept out of loops, whose items Ansible prints.
  type: list
  elements: dict
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about clusters."""

    def filters(self):
        """By name."""
        return {"mesh_reach": _pairs.reach}
