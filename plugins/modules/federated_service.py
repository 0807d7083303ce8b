#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: federated_service
short_description: Declare Services that are backed by Services of all clusters
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Makes Services that the controller fills with endpoints of Services of this and of the peered clusters.
  - One task over the hosts of all clusters declares a Service everywhere, from one definition.
  - A Service that cannot be made does not keep the others from being made; the module fails at the end and names it.
options:
  state:
    description: Whether the Services are to be there. With V(absent) only those with our label are removed.
    type: str
    choices: [present, absent]
    default: present
  services:
    description: The Services.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the Service.
        type: str
        required: true
      namespace:
        description: Its namespace; Services of the same namespace of each cluster can back it.
        type: str
        default: default
      selector:
        description:
          - Which Services back it, by their labels, in Calico's selector language; for example C(app == 'shop').
          - Services of other clusters also have the label C(federation.tigera.io/remoteClusterName).
          - The controller judges its grammar and tells in an Event of the Service. Needed with O(state=present).
        type: str
      ports:
        description:
          - Ports of the Service. Backing ports match by name and protocol. Needed with O(state=present).
        type: list
        elements: dict
        suboptions:
          name:
            description: Name of the port; the backing Services' port has the same. Needed when there is more than one.
            type: str
          port:
            description: Port that clients connect to.
            type: int
            required: true
          protocol:
            description: Protocol.
            type: str
            choices: [TCP, UDP, SCTP]
            default: TCP
          app_protocol:
            description: Protocol of the application, C(appProtocol) of the port.
            type: str
      headless:
        description: Whether the name resolves to the endpoints, without an address of the Service. Cannot be changed later.
        type: bool
        default: false
      session_affinity:
        description: Whether connections of a client go to one endpoint.
        type: str
        choices: [None, ClientIP]
        default: None
      session_affinity_timeout:
        description: Seconds for which O(services[].session_affinity) remembers a client.
        type: int
      affinity:
        description: Whose endpoints are preferred as long as any of them is ready.
        type: str
        choices: [local, remote, none]
      staleness:
        description:
          - What becomes of the endpoints of a cluster that is lost. V(keep), V(not-ready:5m) or V(drop:10m) with a time of your own.
          - The RemoteClusterConfiguration of the cluster decides without it.
        type: str
      labels:
        description: Labels of the Service.
        type: dict
      annotations:
        description: Further annotations of the Service.
        type: dict
  create_namespaces:
    description: Whether to create namespaces that are not there.
    type: bool
    default: false
  adopt:
    description: Whether to take over Services of the same names which do not carry our label.
    type: bool
    default: false
  drop_selector:
    description:
      - Whether to take C(spec.selector) away from a Service that has one. Kubernetes then no longer fills it with pods.
    type: bool
    default: false
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.attributes
"""

EXAMPLES = r"""
- name: Declare the shop in every cluster
  hosts: mesh_clusters
  gather_facts: false
  tasks:
    - name: Declare the shop
      clustermesh.core.federated_service:
        kubeconfig: "{{ mesh_kubeconfig }}"
        create_namespaces: true
        services:
          - name: shop-everywhere
            namespace: shop
            selector: app == 'shop'
            ports:
              - {name: http, port: 80}
            affinity: local
            staleness: not-ready:1m
"""

RETURN = r"""
objects:
  description: What was done with each object.
  type: list
  elements: dict
  returned: always
  sample: [{kind: Service, namespace: shop, name: shop-everywhere, action: create}]
refused:
  description: What could not be made, and why.
  type: list
  elements: str
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _federated
from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, Unreachable, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._objects import MANAGER, name_of
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import Step, carry_out, result


def namespaces(client, steps, create):
    """(steps that create missing namespaces, the Services' steps that can be carried out, refusals)."""
    makes, refusals = {}, []
    for name in sorted({s.wanted["metadata"]["namespace"] for s in steps if s.action == "create"}):
        item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        if client.read(item) is None:
            makes[name] = Step("create", item, None)
    if not create:
        refusals = [
            f"{name_of(s.wanted)}: there is no namespace {s.wanted['metadata']['namespace']}; "
            "create it, or set create_namespaces: true"
            for s in steps
            if s.action == "create" and s.wanted["metadata"]["namespace"] in makes
        ]
        steps = [s for s in steps if s.action != "create" or s.wanted["metadata"]["namespace"] not in makes]
        makes = {}
    return list(makes.values()), steps, refusals


def write(client, step):
    """Carries one step out. A selector that another wrote is not ours to apply away, so it is patched away first."""
    if step.action == "update" and step.stored["spec"].get("selector"):
        patch = {"metadata": {"uid": step.stored["metadata"]["uid"]}, "spec": {"selector": None}}
        client.request(
            "PATCH", client.path(step.stored), patch, {"fieldManager": MANAGER}, "application/merge-patch+json"
        )
    carry_out(client, [step])


def run(module, client):
    """Plans over what is stored and writes what differs; (answer, refusals)."""
    params = module.params
    stored = [client.read(_federated.bare(definition)) for definition in params["services"]]
    if params["state"] == "absent":
        makes, refusals = [], []
        steps = _federated.plan_gone(params["services"], stored)
    else:
        steps, refusals = _federated.plan(params["services"], stored, params["adopt"], params["drop_selector"])
        makes, steps, missing = namespaces(client, steps, params["create_namespaces"])
        refusals += missing
    done = []
    for step in [*makes, *steps]:
        try:
            if not module.check_mode:
                write(client, step)
            done.append(step)
        except Unreachable:
            raise
        except ClusterError as problem:
            refusals.append(str(problem))
    return result(done), refusals


def main():
    """Runs the module."""
    port = {
        "name": {"type": "str"},
        "port": {"type": "int", "required": True},
        "protocol": {"type": "str", "choices": ["TCP", "UDP", "SCTP"], "default": "TCP"},
        "app_protocol": {"type": "str"},
    }
    service = {
        "name": {"type": "str", "required": True},
        "namespace": {"type": "str", "default": "default"},
        "selector": {"type": "str"},
        "ports": {"type": "list", "elements": "dict", "options": port},
        "headless": {"type": "bool", "default": False},
        "session_affinity": {"type": "str", "choices": ["None", "ClientIP"], "default": "None"},
        "session_affinity_timeout": {"type": "int"},
        "affinity": {"type": "str", "choices": ["local", "remote", "none"]},
        "staleness": {"type": "str"},
        "labels": {"type": "dict"},
        "annotations": {"type": "dict"},
    }
    arguments = spec(
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        services={"type": "list", "elements": "dict", "required": True, "options": service},
        create_namespaces={"type": "bool", "default": False},
        adopt={"type": "bool", "default": False},
        drop_selector={"type": "bool", "default": False},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    try:
        answer, refusals = run(module, client_of(module))
    except ClusterError as problem:
        module.fail_json(msg=str(problem))
    if refusals:
        module.fail_json(msg="; ".join(refusals), refused=refusals, **answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
