# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_peers
short_description: Peers of a cluster
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: The other sides of pairs that a cluster is part of.
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
  who:
    description: The clusters that it reads, those that read it (V(readers)), or V(all). They are the same but for pairs with C(readers).
    type: str
    choices: [read, readers, all]
    default: read
"""

EXAMPLES = r"""
- name: Show the peers of oslo
  ansible.builtin.debug:
    msg: "{{ ['oslo', 'paris', 'rome'] | clustermesh.core.mesh_pairs | clustermesh.core.mesh_peers('oslo') }}"
"""

RETURN = r"""
_value:
  description: Names of peers.
  type: list
  elements: str
  sample: [paris, rome]
"""

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


class FilterModule:
    """Filters about peers."""

    def filters(self):
        """By name."""
        return {"mesh_peers": _pairs.peers_of}
