# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: mesh_pairs
short_description: Pairs of clusters that are to be meshed
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description: Every pair of the given clusters, or the explicit ones, sorted and each once.
options:
  _input:
    description: Names of clusters.
    type: list
    elements: str
    required: true
  explicit:
    description:
      - Pairs; a full mesh without it.
      - Each is a list of two names, or a dictionary with that list as C(pair), and some of the following.
      - C(overlay), V(Enabled) or V(Disabled).
      - C(readers), the clusters of the two that read the other one; both without it. With one there is no overlay.
      - C(admit), reader to what it admits of the other one (C(spec.import)), over C(mesh_admit) of that other one.
      - C(labels), labels of the RemoteClusterConfigurations.
    type: list
    elements: raw
"""

EXAMPLES = r"""
- name: Show the pairs of a full mesh
  ansible.builtin.debug:
    msg: "{{ ['oslo', 'paris', 'rome'] | clustermesh.core.mesh_pairs }}"

- name: Show two pairs, one of which needs no overlay
  ansible.builtin.debug:
    msg: "{{ ['oslo', 'paris', 'rome'] | clustermesh.core.mesh_pairs(pairs) }}"
  vars:
    pairs:
      - [oslo, paris]
      - {pair: [oslo, rome], overlay: Disabled}

- name: Show a pair of one direction, with rules for it
  ansible.builtin.debug:
    msg: "{{ ['oslo', 'rome'] | clustermesh.core.mesh_pairs(pairs) }}"
  vars:
    pairs:
      - pair: [oslo, rome]
        readers: [oslo]
        admit:
          oslo: {namespaces: [shop]}
        labels: {tier: test}
"""

RETURN = r"""
_value:
  description: Pairs.
  type: list
  elements: dict
  sample: [{id: oslo--paris, a: oslo, b: paris}]
"""

from ansible.errors import AnsibleFilterError

from ansible_collections.clustermesh.core.plugins.module_utils import _pairs


def mesh_pairs(clusters, explicit=None):
    """The filter."""
    try:
        return _pairs.mesh_pairs(clusters, explicit or None)
    except _pairs.BadPair as problem:
        raise AnsibleFilterError(f"mesh_pairs: {problem}") from problem


class FilterModule:
    """Filters about pairs."""

    def filters(self):
        """By name."""
        return {"mesh_pairs": mesh_pairs}
