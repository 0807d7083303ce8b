# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_policy_lines
short_description: What differs about policies, for people
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: One line for each policy that is not as wanted, and for each field that others changed.
options:
  _input:
    description: Result of M(clustermesh.core.policy).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Compare
  clustermesh.core.policy:
    kubeconfig: oslo.kubeconfig
    source: {kubeconfig: paris.kubeconfig}
    mode: report
  register: oslo

- name: Show what differs
  ansible.builtin.debug:
    msg: "{{ oslo | clustermesh.core.mesh_policy_lines }}"
"""

RETURN = r"""
_value:
  description: Lines.
  type: list
  elements: str
  sample: ['NetworkPolicy shop/dns: spec.egress[0].ports[0].port is 80, not 53; by kubectl-edit at 2026-01-01T00:00:00Z']
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _policy_report


def mesh_policy_lines(answer):
    """The filter."""
    return list(_policy_report.lines(answer))


class FilterModule:
    """Filters about policies."""

    def filters(self):
        """By name."""
        return {"mesh_policy_lines": mesh_policy_lines}
