#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: peering
short_description: Peer a cluster with others
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Makes a cluster's half of all of its pairs hold in one call. For each peer an access Secret C(mesh-access-PEER) and a
    RemoteClusterConfiguration of the peer's name; and one Role by which the controller may read exactly those Secrets.
  - Where Calico's IPPools are served, a disabled pool for each pod CIDR of a peer that the underlay routes to, so that Calico
    does not masquerade what goes there.
  - Compares before it writes, so that nothing is written on a converged cluster.
options:
  peers:
    description: The clusters to peer with.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the peer, a DNS label.
        type: str
        required: true
      kubeconfig:
        description:
          - Content of a kubeconfig with access to the peer, as M(clustermesh.core.remote_access) returns it.
          - Without it the peer's objects stay as they are, as for a peer that is not part of this run. Its IPPools stay
            while its stored RemoteClusterConfiguration leaves the routes to the underlay, whatever its other options say.
        type: str
      overlay:
        description: Whether the mesh routes to the peer through its overlay, or the underlay does already.
        type: str
        choices: [Enabled, Disabled]
        default: Enabled
      pod_cidrs:
        description:
          - Addresses of the peer's pods, for IPPools. Without them the pools of the peer stay as they are.
        type: list
        elements: str
      admit:
        description:
          - What the peer may claim, C(spec.import) of the RemoteClusterConfiguration.
          - For example C(podCIDRs), C(nodeCIDRs) and C(namespaces).
        type: dict
      labels:
        description: Labels of the RemoteClusterConfiguration, beside our own.
        type: dict
        default: {}
  prune:
    description: Whether to remove peers that are not in O(peers). Only objects with our label are removed.
    type: bool
    default: true
  prune_only:
    description:
      - Whether to remove only, and to make or change nothing for the peers. As the last part of a run, after another one
        which has made everything; so that a check run does not foretell the same twice.
    type: bool
    default: false
  prune_pools:
    description: Whether to remove IPPools with our label that no peer needs any more.
    type: bool
    default: true
  adopt:
    description:
      - Whether to take over objects of the same names which do not carry our label. Otherwise they are in the way and
        nothing is written.
      - The namespace C(clustermesh-system) may be anybody's; it is used as it is.
    type: bool
    default: false
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.attributes
"""

EXAMPLES = r"""
- name: Peer paris with oslo
  clustermesh.core.peering:
    kubeconfig: paris.kubeconfig
    peers:
      - name: oslo
        kubeconfig: "{{ oslo_access.kubeconfig }}"
        admit:
          podCIDRs: [10.2.0.0/16]
"""

RETURN = r"""
peers:
  description: What was done for each peer.
  type: list
  elements: dict
  returned: success
  sample: [{name: oslo, action: created}]
objects:
  description: What was done with each object.
  type: list
  elements: dict
  returned: success
  sample: [{kind: Secret, namespace: clustermesh-system, name: mesh-access-oslo, action: create}]
conflicts:
  description: Objects that are in the way and not ours.
  type: list
  elements: str
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _peering, _pools
from ansible_collections.clustermesh.core.plugins.module_utils._access import namespace
from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._objects import GROUP, NAMESPACE
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import plan_some, result, write


def by_name(items, version, kind):
    """Listed objects, which do not say their kind, by name."""
    return {item["metadata"]["name"]: {"apiVersion": version, "kind": kind, **item} for item in items}


def calico(client):
    """The served API version of Calico's IPPools and all of them; None and nothing without Calico."""
    for version in _pools.VERSIONS:
        if client.get(f"/apis/{version}/ippools", {"limit": "1"}) is not None:
            found = client.items(f"/apis/{version}/ippools")
            return version, [{"apiVersion": version, "kind": "IPPool", **item} for item in found]
    return None, []


def pool_steps(module, client, configurations):
    """Steps about pools, before and after those about peers."""
    peers = [_pools.as_stored(peer, configurations) for peer in module.params["peers"]]
    version, stored = calico(client)
    if version is None:
        return [], []
    for name in _pools.unknown(peers):
        module.warn(
            f"no pod CIDR of {name} is known, so Calico may masquerade what goes there: set mesh_pod_cidrs of {name}"
        )
    makes, gone = _pools.plan(peers, stored, version, module.params["prune"] and module.params["prune_pools"])
    return [] if module.params["prune_only"] else makes, gone


def run(module, client):
    """Plans over what is stored and writes what differs."""
    params, peers = module.params, module.params["peers"]
    if params["prune_only"]:
        peers = [{"name": peer["name"]} for peer in peers]
    secrets = by_name(client.items(f"/api/v1/namespaces/{NAMESPACE}/secrets"), "v1", "Secret")
    stored = by_name(client.items(f"/apis/{GROUP}/remoteclusterconfigurations"), GROUP, "RemoteClusterConfiguration")
    readers = [client.read(item) for item in _peering.reader([])]
    steps, results = _peering.plan(peers, secrets, stored, readers, params["prune"])
    makes, gone = pool_steps(module, client, stored)
    if peers and not params["prune_only"]:
        steps = [plan_some(namespace(), client.read(namespace())), *makes, *steps]
    steps = [*steps, *gone]
    for peer in results:
        if peer["action"] == "skipped" and not params["prune_only"]:
            module.warn(f"peer {peer['name']} is not part of this run and unknown to this cluster: left out")
    write(module, client, steps, "mesh_peering_adopt")
    return {"peers": results, **result(steps)}


def main():
    """Runs the module."""
    peer = {
        "name": {"type": "str", "required": True},
        "kubeconfig": {"type": "str", "no_log": True},
        "overlay": {"type": "str", "choices": ["Enabled", "Disabled"], "default": "Enabled"},
        "pod_cidrs": {"type": "list", "elements": "str"},
        "admit": {"type": "dict"},
        "labels": {"type": "dict", "default": {}},
    }
    arguments = spec(
        peers={"type": "list", "elements": "dict", "default": [], "options": peer},
        prune={"type": "bool", "default": True},
        prune_only={"type": "bool", "default": False},
        prune_pools={"type": "bool", "default": True},
        adopt={"type": "bool", "default": False},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    try:
        module.exit_json(**run(module, client_of(module)))
    except ClusterError as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
