# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_findings
short_description: What stands against meshing clusters
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: Looks at each cluster, at every pair, for ids and address ranges that clash, and at nodes.
options:
  _input:
    description: Facts of clusters, RV(clustermesh.core.preflight_info#module:facts) of each.
    type: list
    elements: dict
    required: true
  nodes:
    description:
      - Results of nodes, each a dictionary of C(name), C(node) (result of M(clustermesh.core.node_preflight_info)) and C(probe)
        (result of M(clustermesh.core.underlay_probe_info)) with the names of its targets in C(targets) by address.
      - The silence of a target that did not listen (no result, or C(busy)) is no finding.
    type: list
    elements: dict
    default: []
  port:
    description: UDP port of the overlay.
    type: int
    default: 4790
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

from ansible_collections.clustermesh.core.plugins.module_utils import _node, _preflight


def mesh_findings(clusters, nodes=(), port=4790):
    """The filter."""
    found = list(_preflight.findings(clusters))
    probes = {item["name"]: item.get("probe") or {} for item in nodes}
    listening = {name for name, probe in probes.items() if "silent" in probe and not probe.get("busy")}
    for item in nodes:
        found += (item.get("node") or {}).get("findings") or []
        silent = [item["targets"].get(address, address) for address in probes[item["name"]].get("silent") or ()]
        found += _node.unreachable(item["name"], [other for other in silent if other in listening], port)
    facts = {item["name"]: (item.get("node") or {}).get("facts") or {} for item in nodes}
    return found + _node.unequal_mtus({name: fact.get("mtu") or 0 for name, fact in facts.items()})


class FilterModule:
    """Filters about preflight."""

    def filters(self):
        """By name."""
        return {"mesh_findings": mesh_findings}
