#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_info
short_description: Say what a cluster is, and what stands against meshing it
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Reads what must be known of a cluster before it is meshed, whether it answers, its version and id, the address ranges
    of its pods, services and nodes, its CNI, its clock, and whether the caller may do all that the mesh needs.
  - Fails only on wrong options. An unreachable cluster is a finding.
options:
  name:
    description: Name of the cluster in findings.
    type: str
    required: true
  pod_cidrs:
    description: Address ranges of pods, where the Nodes do not say (spec.podCIDRs).
    type: list
    elements: str
    default: []
  others:
    description: Facts of other clusters, as RV(facts); findings then are about every pair too.
    type: list
    elements: dict
    default: []
  daemon_mode:
    description: How the daemons are to run; V(kubernetes) takes rights to workloads.
    type: str
    choices: [systemd, kubernetes]
    default: systemd
  token_type:
    description: Which tokens peers are to get, as M(clustermesh.core.remote_access) has it; V(request) takes the right to ask for them.
    type: str
    choices: [secret, request]
    default: secret
  pools:
    description: Whether the underlay is to route to a peer of this cluster, which takes rights to IPPools where Calico is its CNI.
    type: bool
    default: false
  vouched:
    description:
      - Whether peers and nodes get certificates of their own to verify the API server by. Otherwise they get those of this connection,
        and it is a finding when there are none, as where the roots of the system or nobody vouch for the server.
    type: bool
    default: false
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.attributes.info
"""

EXAMPLES = r"""
- name: Look at paris
  clustermesh.core.preflight_info:
    name: paris
    kubeconfig: paris.kubeconfig
  register: paris
"""

RETURN = r"""
facts:
  description: What the cluster is.
  type: dict
  returned: success
  sample:
    name: paris
    reachable: true
    version: v1.34.1
    cluster_id: 5e9d2cf6-2b1c-4c52-b4a1-4b8f1a4f0e4e
    pod_cidrs: [10.1.0.0/24]
    service_cidrs: [10.96.0.0/16]
    node_addresses: [192.0.2.11]
    node_count: 1
    nodes: {n1: [192.0.2.11]}
    cni: calico
    encapsulation: vxlan
    clock_offset: 0.2
    denied: []
    vouched: true
findings:
  description: What stands against meshing, empty when nothing does.
  type: list
  elements: dict
  returned: success
  sample:
    - id: cidr-overlap
      cluster: oslo,paris
      status: error
      message: pods of oslo (10.1.0.0/24) overlap pods of paris (10.1.0.0/24)
      hint: renumber one of the two
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _pools, _preflight, _rights
from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, Refused, client_of


def is_allowed(client, right):
    """Whether the caller may do that (SelfSubjectAccessReview)."""
    resource, dummy, subresource = right.resource.partition("/")
    attributes = {**right._asdict(), "resource": resource, "subresource": subresource}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = client.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return bool((answer.get("status") or {}).get("allowed"))


def denied(client, wanted):
    """What the caller may not do and must; one question for administrators."""
    if is_allowed(client, _rights.Right("*", "*", "*")):
        return []
    return _rights.missing(lambda right: is_allowed(client, right), wanted)


def service_cidrs(client):
    """From ServiceCIDR objects (1.33 and newer), else the address of the Service kubernetes."""
    found = [
        cidr for item in client.items("/apis/networking.k8s.io/v1/servicecidrs") for cidr in item["spec"]["cidrs"]
    ]
    if found:
        return found
    service = client.get("/api/v1/namespaces/default/services/kubernetes") or {}
    return (service.get("spec") or {}).get("clusterIPs") or []


def calico(client):
    """The version of Calico's objects that is served, its pools and its settings; None, None and nothing without Calico."""
    for version in _pools.VERSIONS:
        pools = client.get(f"/apis/{version}/ippools")
        if pools is not None:
            felix = client.get(f"/apis/{version}/felixconfigurations/default") or {}
            return version, pools["items"], felix.get("spec") or {}
    return None, None, {}


def facts_of(module, client):
    """The facts of the cluster; of an unreachable one, that."""
    params, name = module.params, module.params["name"]
    try:
        version = client.request("GET", "/version")["gitVersion"]
        served, pools, felix = calico(client)
        daemon_sets = [item["metadata"]["name"] for item in client.items("/apis/apps/v1/daemonsets")]
        facts = _preflight.facts_of(
            name,
            version,
            client.get("/api/v1/namespaces/kube-system"),
            client.items("/api/v1/nodes"),
            service_cidrs(client),
            params["pod_cidrs"],
            _preflight.network_of(pools, felix, daemon_sets),
        )
        wanted = _rights.needed(params["daemon_mode"], params["token_type"], served, params["pools"])
        more = {"denied": denied(client, wanted), "clock_offset": client.clock_offset}
        return {**facts, **more, "vouched": params["vouched"] or bool(client.authority)}
    except Refused as problem:
        if problem.status in (401, 403):
            return _preflight.unreachable(name, f"the credentials are not enough: {problem}")
        return _preflight.unreachable(name, str(problem))
    except ClusterError as problem:
        return _preflight.unreachable(name, str(problem))


def main():
    """Runs the module."""
    arguments = spec(
        name={"type": "str", "required": True},
        pod_cidrs={"type": "list", "elements": "str", "default": []},
        others={"type": "list", "elements": "dict", "default": []},
        daemon_mode={"type": "str", "choices": ["systemd", "kubernetes"], "default": "systemd"},
        token_type={"type": "str", "choices": ["secret", "request"], "default": "secret", "no_log": False},
        pools={"type": "bool", "default": False},
        vouched={"type": "bool", "default": False},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    facts = facts_of(module, client_of(module))
    findings = _preflight.findings([facts, *module.params["others"]])
    module.exit_json(changed=False, facts=facts, findings=findings)


if __name__ == "__main__":
    main()
