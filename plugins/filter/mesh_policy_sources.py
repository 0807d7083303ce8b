# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_policy_sources
short_description: Access to the clusters that policy sets come from
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: Takes how to reach each source from the variables that the inventory has for it.
options:
  _input:
    description: Policy sets, as role P(clustermesh.core.mesh_policy#role) takes them.
    type: list
    elements: dict
    required: true
  hosts:
    description: The variables of all hosts, C(hostvars).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Have the policies of paris
  ansible.builtin.import_role:
    name: clustermesh.core.mesh_policy
  vars:
    mesh_policy_sets: [{name: baseline, source: paris}]
    mesh_policy_sources: "{{ [{'name': 'baseline', 'source': 'paris'}] | clustermesh.core.mesh_policy_sources(hostvars) }}"
"""

RETURN = r"""
_value:
  description: Options of access, by name of cluster.
  type: dict
  sample: {paris: {kubeconfig: secrets/paris.kubeconfig}}
"""

from ansible.errors import AnsibleFilterError

from ansible_collections.clustermesh.core.plugins.module_utils import _policy_report


def mesh_policy_sources(sets, hosts):
    """The filter."""
    try:
        return _policy_report.sources(sets, hosts)
    except _policy_report.UnknownSource as problem:
        raise AnsibleFilterError(f"mesh_policy_sources: {problem}") from problem


class FilterModule:
    """Filters about policies."""

    def filters(self):
        """By name."""
        return {"mesh_policy_sources": mesh_policy_sources}
