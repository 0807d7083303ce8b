#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_info
short_description: Export the policies of a cluster
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Returns network policies, tiers and sets as manifests without anything that belongs to this one cluster.
  - M(clustermesh.core.policy) takes them as O(clustermesh.core.policy#module:definitions).
  - Policies that a controller keeps, and tiers that Calico makes itself, are left out.
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.policies
  - clustermesh.core.attributes.info
"""

EXAMPLES = r"""
- name: Export the policies of paris
  clustermesh.core.policy_info:
    kubeconfig: paris.kubeconfig
    label_selector: team=security
  register: paris

- name: Keep them in a file
  ansible.builtin.copy:
    content: "{{ {'apiVersion': 'v1', 'kind': 'List', 'items': paris.definitions} | to_nice_yaml(sort_keys=false) }}"
    dest: policies.yml
    mode: "0644"
"""

RETURN = r"""
definitions:
  description: Manifests; tiers and sets before policies, then by name.
  type: list
  elements: dict
  returned: success
kinds:
  description: Kinds that the cluster serves, of those asked for.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._policies import KINDS, BadPolicy, selected
from ansible_collections.clustermesh.core.plugins.module_utils._policy_cluster import Policies
from ansible_collections.clustermesh.core.plugins.module_utils._policy_plan import manifest


def run(module, client):
    """Reads and cleans."""
    params = module.params
    cluster = Policies(client)
    kinds, found = cluster.native(params["kinds"] or list(KINDS), params["namespaces"])
    found = selected(found, params["label_selector"], params["namespaces"], params["names"])
    ordered = sorted(found, key=lambda policy: (policy.kind.rank, policy.key))
    # Calico's by the name of its public API, whatever this cluster serves
    definitions = [manifest(p, cluster.version(p.kind) if p.kind.versions[0].endswith("*") else p.kind.versions[0])
                   for p in ordered]  # fmt: skip
    return {"kinds": kinds, "definitions": definitions}


def main():
    """Runs the module."""
    arguments = spec(
        kinds={"type": "list", "elements": "str", "choices": list(KINDS)},
        label_selector={"type": "str"},
        namespaces={"type": "list", "elements": "str"},
        names={"type": "list", "elements": "str"},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    try:
        module.exit_json(changed=False, **run(module, client_of(module)))
    except (ClusterError, BadPolicy) as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
