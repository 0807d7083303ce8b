# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_peer_specs
short_description: Options of module peering for the peers of a cluster
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - For each peer the dictionary that O(clustermesh.core.peering#module:peers) takes.
  - The kubeconfig is what role C(mesh_access) got in this run; a cluster outside of the run has none, and keeps its objects.
options:
  _input:
    description: Pairs, as P(clustermesh.core.mesh_pairs#filter) makes them.
    type: list
    elements: dict
    required: true
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  hosts:
    description: The variables of hosts by name, C(hostvars).
    type: dict
    required: true
  overlay:
    description: Whether the mesh routes, or the underlay does, for pairs that do not say.
    type: str
    choices: [Enabled, Disabled]
    default: Enabled
"""

EXAMPLES = r"""
- name: Peer
  clustermesh.core.peering:
    peers: "{{ groups['mesh_clusters'] | clustermesh.core.mesh_pairs | clustermesh.core.mesh_peer_specs('oslo', hostvars) }}"
"""

RETURN = r"""
_value:
  description: Peers.
  type: list
  elements: dict
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about peers."""

    def filters(self):
        """By name."""
        return {"mesh_peer_specs": _pairs.peer_specs}
