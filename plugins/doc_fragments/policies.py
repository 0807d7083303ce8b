# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    """Which policies a module is about."""

    DOCUMENTATION = r"""
options:
  kinds:
    description:
      - Kinds of policies. V(NetworkPolicy) is Kubernetes' own, V(CalicoNetworkPolicy) Calico's.
      - Calico's kinds are used as C(projectcalico.org/v3) where that is served and as C(crd.projectcalico.org/v1) elsewhere.
      - All of them by default.
    type: list
    elements: str
    choices: [Tier, NetworkSet, GlobalNetworkSet, NetworkPolicy, CalicoNetworkPolicy, GlobalNetworkPolicy, ClusterNetworkPolicy]
  label_selector:
    description: Only policies with these labels, in the grammar of Kubernetes' label selectors; C(app=shop,tier in (a, b)).
    type: str
  namespaces:
    description: Only namespaced policies of these namespaces. Cluster-wide ones are chosen by the other options.
    type: list
    elements: str
  names:
    description:
      - Only policies of these names; C(*) and C(?) stand for any characters.
      - A policy of Calico in a tier of its own is named C(TIER.NAME), one of the default tier C(NAME).
    type: list
    elements: str
"""
