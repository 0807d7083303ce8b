#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_info
short_description: Say how a cluster's mesh is, and wait until it is well
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Reads the state of a cluster's controller, of its peers and of the agents on its nodes.
options:
  wait:
    description: Seconds to wait until a controller leads, every peer is connected and synced and every node is ready.
    type: float
    default: 0.0
  expected_peers:
    description: Peers that must be there.
    type: list
    elements: str
    default: []
  excused_peers:
    description: Peers that are shown and not judged, as those that are known not to answer.
    type: list
    elements: str
    default: []
  expected_nodes:
    description: Nodes whose agents must have reported, and lately; of other nodes a silent agent is only told.
    type: list
    elements: str
    default: []
  check_rights:
    description:
      - Whether to ask the API server (SubjectAccessReview, which stores nothing) that peers may read what they must and no
        Secret, and that the controller may read the access Secrets of its peers.
    type: bool
    default: false
  sample_pods:
    description:
      - How many ready pods of the cluster to name in RV(pods), so that others can see whether they reach them. None of those that
        have the network of their node; those of the cluster's DNS first, and of as many nodes as there are.
    type: int
    default: 0
  expected_credentials:
    description:
      - Name of a peer to RV(clustermesh.core.remote_access#module:credential); the cluster must be in sync with that peer by
        that very credential.
      - With it only those peers count for O(wait) and RV(ready), and no node.
    type: dict
    default: {}
  expected_overlay:
    description:
      - Name of a peer to V(Enabled) or V(Disabled), how packets to it must be routed by the kernels of all nodes.
      - With it only that counts for O(wait) and RV(ready).
    type: dict
    default: {}
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.attributes.info
"""

EXAMPLES = r"""
- name: Wait for the mesh of paris
  clustermesh.core.mesh_info:
    kubeconfig: paris.kubeconfig
    wait: 60
  register: paris
"""

RETURN = r"""
ready:
  description: Whether all is well.
  type: bool
  returned: success
meshed:
  description: Whether the cluster has the custom resource definitions of the mesh.
  type: bool
  returned: success
controllers:
  description: The controller that leads, by its Lease; nothing where there is no Lease.
  type: list
  elements: dict
  returned: success
  sample: [{controller: n1_2f8a, ready: true, reason: ""}]
peers:
  description: One row a peer.
  type: list
  elements: dict
  returned: success
  sample: [{peer: oslo, ready: true, connected: true, synced: true, overlay: Enabled, nodes: 2, services: 3, refused: 0,
            credential: 0123456789abcdef, reason: ""}]
pods:
  description: Some pods, with O(sample_pods), as O(clustermesh.core.pod_probe_info#module:pods) takes them.
  type: list
  elements: dict
  returned: success
  sample: [{name: kube-system/coredns-0, node: n1, address: 10.42.0.3, port: 53}]
rights:
  description: Rights that are missing, or that nobody should have; with O(check_rights).
  type: list
  elements: str
  returned: success
not_switched:
  description: What does not route as O(expected_overlay) says.
  type: list
  elements: str
  returned: success
outdated:
  description: Peers that are not in sync by the credential of O(expected_credentials).
  type: list
  elements: str
  returned: success
nodes:
  description:
    - One row a node. C(tunnelled) is whether its own packets, not only those of its pods, take the mesh.
  type: list
  elements: dict
  returned: success
  sample: [{node: n1, ready: true, routes: 2, device: clustermesh0, paths: 2/2, overlay: {oslo: Enabled}, tunnelled: true, reason: ""}]
"""

import time
from datetime import datetime, timedelta, timezone

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _info
from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._objects import GROUP, NAMESPACE


def look(client, params):
    """The rows as they are now."""
    configurations = client.items(f"/apis/{GROUP}/remoteclusterconfigurations")
    remote_nodes = client.items(f"/apis/{GROUP}/remotenodes")
    mesh_nodes = client.items(f"/apis/{GROUP}/meshnodes")
    lease = client.get(_info.LEASE)
    now = datetime.now(timezone.utc) + timedelta(seconds=client.clock_offset)  # by the cluster's clock
    excused = params["excused_peers"]
    peers = _info.peer_rows(configurations, remote_nodes)
    answers = not excused or any(row["peer"] not in excused for row in peers)
    answer = {
        "meshed": client.get(f"/apis/{GROUP}") is not None,
        "controllers": _info.controller_rows(lease, now),
        "peers": peers,
        "nodes": _info.node_rows(mesh_nodes, params["expected_nodes"], now, answers),
    }
    answer["nodes"] += _info.without_agents(answer)
    credentials, overlay = params["expected_credentials"], params["expected_overlay"]
    outdated, not_switched = _info.outdated(answer, credentials), _info.other_overlay(answer, overlay)
    if credentials or overlay:
        ready = not outdated and not not_switched
    else:
        ready = _info.is_complete(answer, params["expected_peers"], excused)
    return {**answer, "outdated": outdated, "not_switched": not_switched, "ready": ready}


def wrong_rights(client, peers):
    """Rights that are not as they must be, as lines."""
    found = []
    for account, verb, group, resource, namespace, name, wanted in _info.questions(peers):
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace, "name": name}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{NAMESPACE}:{account}",
                "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
                "resourceAttributes": attributes,
            },
        }
        answer = client.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        if bool((answer.get("status") or {}).get("allowed")) != wanted:
            found.append(f"{account} {'may not' if wanted else 'may'} {verb} {resource} {name}".rstrip())
    return found


def sample_pods(client, number):
    """Some pods that have addresses of their own and are ready."""
    if not number:
        return []
    query = {"limit": "100", "fieldSelector": "status.phase=Running"}
    pages = (client.get("/api/v1/pods", {**query, **more}) for more in ({"labelSelector": "k8s-app=kube-dns"}, {}))
    return _info.sample_of((pod for page in pages for pod in (page or {}).get("items") or ()), number)


def run(module, client):
    """Looks until all is well or time is up."""
    answer = {**wait(module, client), "pods": sample_pods(client, module.params["sample_pods"])}
    if module.params["check_rights"]:
        rights = wrong_rights(client, [row["peer"] for row in answer["peers"]])
        answer = {**answer, "rights": rights, "ready": answer["ready"] and not rights}
    return answer


def wait(module, client):
    """The rows once all is well or time is up."""
    deadline = time.monotonic() + module.params["wait"]
    while True:
        try:
            answer = look(client, module.params)
        except ClusterError:
            if time.monotonic() > deadline:
                raise
            answer = {"ready": False}
        if answer["ready"] or (time.monotonic() > deadline and "peers" in answer):
            return answer
        time.sleep(0.5)


def main():
    """Runs the module."""
    arguments = spec(
        wait={"type": "float", "default": 0.0},
        expected_peers={"type": "list", "elements": "str", "default": []},
        excused_peers={"type": "list", "elements": "str", "default": []},
        expected_nodes={"type": "list", "elements": "str", "default": []},
        sample_pods={"type": "int", "default": 0},
        check_rights={"type": "bool", "default": False},
        expected_credentials={"type": "dict", "default": {}, "no_log": False},
        expected_overlay={"type": "dict", "default": {}},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    try:
        module.exit_json(changed=False, **run(module, client_of(module)))
    except ClusterError as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
