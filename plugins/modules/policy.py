#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: policy
short_description: Replicate network policies into a cluster and find drift
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Makes this cluster have the network policies, tiers and sets of another cluster, or of files, as one policy set.
  - Tells which fields of them others changed, and who, by C(managedFields).
  - Writes only what differs and removes only what carries the label of the set. Objects of others stay as they are.
  - A policy that cannot be written does not keep the others from it; the module fails at the end and names it.
options:
  policy_set:
    description: Name of the policy set, the value of label C(clustermesh.io/policy-set). Each set has one source.
    type: str
    default: default
  state:
    description: Whether the policies are to be there. With V(absent) everything of the set is removed; no source is read.
    type: str
    choices: [present, absent]
    default: present
  mode:
    description: Whether to write, or only to tell what differs. With V(report) the result is never changed.
    type: str
    choices: [enforce, report]
    default: enforce
  source:
    description: The cluster whose policies are wanted.
    type: dict
    suboptions:
      kubeconfig:
        description: Path of a kubeconfig.
        type: path
      context:
        description: Context in the kubeconfig, its current one by default.
        type: str
      host:
        description: URL of the API server, instead of the kubeconfig's.
        type: str
      api_key:
        description: Bearer token, instead of the kubeconfig's credentials.
        type: str
      ca_cert:
        description: Path of the certificates that vouch for the API server, instead of the kubeconfig's.
        type: path
      validate_certs:
        description: Whether to verify the API server's certificate.
        type: bool
        default: true
      request_timeout:
        description: Seconds after which a request without answer has failed.
        type: float
        default: 15.0
  files:
    description: Files of manifests with wanted policies, YAML or JSON.
    type: list
    elements: path
  definitions:
    description: Manifests of wanted policies.
    type: list
    elements: dict
  rewrite:
    description: What changes about the policies on their way.
    type: dict
    suboptions:
      namespaces:
        description: Old to new names of namespaces. Label selectors by the name of a namespace follow, Calico's selectors do not.
        type: dict
      names:
        description: Regular expressions on names, one after the other. The tier in front of a name follows that of the tier.
        type: list
        elements: dict
        suboptions:
          match:
            description: What to look for.
            type: str
            required: true
          replace:
            description: What to write in its place; C(\\1) is the first group.
            type: str
            required: true
      set_labels:
        description: Labels to set.
        type: dict
      remove_labels:
        description: Labels to remove.
        type: list
        elements: str
      set_annotations:
        description: Annotations to set.
        type: dict
      remove_annotations:
        description: Annotations to remove.
        type: list
        elements: str
      cidrs:
        description: Old to new prefixes of the same length. Addresses and prefixes inside move with them.
        type: dict
  prune:
    description: Whether to remove policies of the set that are no longer wanted, of O(kinds) that the source serves.
    type: bool
    default: true
  adopt:
    description: Whether to take over policies of the same names that others made, or that belong to another set.
    type: bool
    default: false
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.policies
  - clustermesh.core.attributes
"""

EXAMPLES = r"""
- name: Have the policies of paris in oslo
  clustermesh.core.policy:
    kubeconfig: oslo.kubeconfig
    source:
      kubeconfig: paris.kubeconfig
    label_selector: replicate=true
    rewrite:
      cidrs:
        10.1.0.0/16: 10.2.0.0/16

- name: Tell who changed them since
  clustermesh.core.policy:
    kubeconfig: oslo.kubeconfig
    source:
      kubeconfig: paris.kubeconfig
    label_selector: replicate=true
    mode: report
  register: oslo
  failed_when: oslo.drifted
"""

RETURN = r"""
objects:
  description:
    - What was, or with O(mode=report) would be, done with each policy.
    - C(action) is create, update, delete, keep, skip (it cannot be written now) or leave (somebody else's); C(reason) says why.
    - C(drift) lists fields that others changed since it was written. C(manager) is empty where managedFields do not tell.
  type: list
  elements: dict
  returned: always
  sample:
    - kind: NetworkPolicy
      namespace: shop
      name: allow-dns
      action: update
      reason: ""
      drift:
        - {path: "spec.egress[0].ports[0].port", want: 53, have: 80, manager: kubectl-edit, time: "2026-01-01T00:00:00Z"}
drifted:
  description: Whether others changed policies of the set.
  type: bool
  returned: always
in_sync:
  description: Whether everything was as wanted before this run.
  type: bool
  returned: always
refused:
  description: What could not be written, and why.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils._args import AUTH, spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import Client, ClusterError, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._objects import name_of, projected, shown
from ansible_collections.clustermesh.core.plugins.module_utils._policies import (
    KINDS,
    BadPolicy,
    from_definitions,
    label_matcher,
    selected,
)
from ansible_collections.clustermesh.core.plugins.module_utils._policy_cluster import Policies
from ansible_collections.clustermesh.core.plugins.module_utils._policy_plan import manifest, plan, plan_gone
from ansible_collections.clustermesh.core.plugins.module_utils._policy_rewrite import Rewrite

try:
    import yaml
except ImportError:  # the kubernetes library brings it, and client_of says so
    yaml = None


def manifests(params):
    """Definitions and those of files."""
    found = list(params["definitions"] or ())
    for file in params["files"] or ():
        try:
            with open(file, encoding="utf-8") as stream:
                found += [item for item in yaml.safe_load_all(stream) if item]
        except (OSError, ValueError, yaml.YAMLError) as problem:
            raise ClusterError(f"{file}: {problem}") from problem
    return found


def wanted(params):
    """(policies after selection, kinds of them that may be pruned, refusals)."""
    kinds = params["kinds"] or list(KINDS)
    if params["source"] is None:
        found, refusals = from_definitions(manifests(params))
        found = [policy for policy in found if policy.kind.name in kinds]
    else:
        kinds, found = Policies(Client(params["source"])).native(kinds, params["namespaces"])
        refusals = []
    return selected(found, params["label_selector"], params["namespaces"], params["names"]), kinds, refusals


def steps_of(module, cluster):
    """(steps, target, refusals) of a run."""
    params = module.params
    if params["state"] == "absent":
        target = cluster.target(params["kinds"] or list(KINDS))
        return plan_gone((), target, params["policy_set"]), target, []
    rewrite = Rewrite(params["rewrite"])
    label_matcher(params["label_selector"])
    policies, prunable, refusals = wanted(params)
    policies, warnings = rewrite.policies(policies)
    for text in warnings:
        module.warn(text)
    target = cluster.target(params["kinds"] or list(KINDS))
    steps = plan(policies, target, params["policy_set"], params["adopt"])
    if params["prune"] and not refusals:  # what could not be read must not look unwanted
        gone = plan_gone({policy.key for policy in policies}, target, params["policy_set"])
        gone = [step for step in gone if step.policy.kind.name in prunable]
        if gone and not policies:
            raise BadPolicy(
                f"nothing is selected, and {len(gone)} policies of set {params['policy_set']} would go; "
                "check source and selection, or remove the set by state: absent"
            )
        steps += gone
    return steps, target, refusals


def difference(step, versions, set_name):
    """What a write changes, for a diff."""
    before, after = shown(step.stored), {}
    if step.action != "delete":
        after = shown(manifest(step.policy, versions[step.policy.kind.name], set_name, step.stored))
    if step.action == "update":
        before = {**projected(after, before), "spec": before.get("spec")}
    header = name_of(step.stored) if step.stored else str(step.policy)
    return {"before_header": header, "after_header": header, "before": before, "after": after}


def row(step):
    """What the module returns about a step."""
    policy = step.policy
    return {
        "kind": policy.kind.name,
        "namespace": policy.namespace,
        "name": policy.name,
        "action": step.action,
        "reason": step.reason,
        "drift": step.drift,
    }


def run(module, client):
    """Plans over what is stored and writes what differs."""
    params = module.params
    cluster = Policies(client)
    steps, target, refusals = steps_of(module, cluster)
    refusals += [f"{step.policy}: {step.reason}" for step in steps if step.action == "leave"]
    skipped = [f"{step.policy} is left out: {step.reason}" for step in steps if step.action == "skip"]
    for text in skipped:
        module.warn(text)
    writes = params["mode"] == "enforce"
    diffs, changed = [], False
    for step in steps if writes else ():
        if step.changes:
            problem = None if module.check_mode else cluster.carry_out(step, target.versions, params["policy_set"])
            if problem:
                refusals.append(f"{step.policy}: {problem}")
                step.reason = problem
                continue
            changed = True
            diffs.append(difference(step, target.versions, params["policy_set"]))
    return {
        "changed": changed,
        "objects": [row(step) for step in steps],
        "drifted": any(step.drift for step in steps),
        "in_sync": not refusals and all(step.action == "keep" for step in steps),
        "refused": refusals,
        "diff": diffs,
    }


def main():
    """Runs the module."""
    name_rule = {"match": {"type": "str", "required": True}, "replace": {"type": "str", "required": True}}
    rewrite = {
        "namespaces": {"type": "dict"},
        "names": {"type": "list", "elements": "dict", "options": name_rule},
        "set_labels": {"type": "dict"},
        "remove_labels": {"type": "list", "elements": "str"},
        "set_annotations": {"type": "dict"},
        "remove_annotations": {"type": "list", "elements": "str"},
        "cidrs": {"type": "dict"},
    }
    arguments = spec(
        policy_set={"type": "str", "default": "default"},
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        mode={"type": "str", "choices": ["enforce", "report"], "default": "enforce"},
        source={"type": "dict", "options": AUTH},
        files={"type": "list", "elements": "path"},
        definitions={"type": "list", "elements": "dict"},
        rewrite={"type": "dict", "options": rewrite},
        kinds={"type": "list", "elements": "str", "choices": list(KINDS)},
        label_selector={"type": "str"},
        namespaces={"type": "list", "elements": "str"},
        names={"type": "list", "elements": "str"},
        prune={"type": "bool", "default": True},
        adopt={"type": "bool", "default": False},
    )
    module = AnsibleModule(
        arguments,
        supports_check_mode=True,
        mutually_exclusive=[("source", "files"), ("source", "definitions")],
        required_if=[("state", "present", ("source", "files", "definitions"), True)],
    )
    try:
        answer = run(module, client_of(module))
    except (ClusterError, BadPolicy) as problem:
        module.fail_json(msg=str(problem))
    if answer["refused"] and module.params["mode"] == "enforce":
        module.fail_json(msg="; ".join(answer["refused"]), **answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
