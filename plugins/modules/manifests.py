#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: manifests
short_description: Apply a set of manifests, writing only what differs
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Applies objects of a cluster in one call (server-side apply), after comparing them with what is stored.
  - Adds the label C(app.kubernetes.io/managed-by=clustermesh); O(state=absent) removes only objects that carry it.
  - Objects of the same names without it are in the way, and nothing is written. CustomResourceDefinitions of the group
    C(clustermesh.io), or with the label C(app.kubernetes.io/part-of=clustermesh), are ours whoever applied them.
options:
  state:
    description: Whether the objects are to be there.
    type: str
    choices: [present, absent]
    default: present
  definitions:
    description: Objects.
    type: list
    elements: dict
    default: []
  files:
    description: Files with objects, YAML documents or JSON.
    type: list
    elements: path
    default: []
  wait:
    description: Whether to wait until CustomResourceDefinitions are established.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait.
    type: float
    default: 30.0
  adopt:
    description: Whether to take over objects of the same names that are not ours.
    type: bool
    default: false
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.attributes
"""

EXAMPLES = r"""
- name: Apply the CustomResourceDefinitions
  clustermesh.core.manifests:
    kubeconfig: paris.kubeconfig
    files:
      - files/remotenodes.yaml
"""

RETURN = r"""
objects:
  description: What was done with each object, C(leave) for one that is not ours.
  type: list
  elements: dict
  returned: success
conflicts:
  description: Objects that are in the way and not ours.
  type: list
  elements: str
  returned: failure
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, UnknownKind, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import (
    plan_absent,
    plan_present,
    result,
    write,
)

try:
    import yaml
except ImportError:  # the kubernetes library brings it, and client_of says so
    yaml = None


def definitions_of(params):
    """All definitions of a call, files first."""
    found = []
    for file in params["files"]:
        try:
            with open(file, encoding="utf-8") as stream:
                found += [item for item in yaml.safe_load_all(stream) if item]
        except (OSError, yaml.YAMLError) as problem:
            raise ClusterError(f"{file}: {problem}") from problem
    return found + params["definitions"]


def is_established(stored):
    """Whether a CustomResourceDefinition is served."""
    conditions = ((stored or {}).get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def wait_established(client, steps, timeout):
    """Returns when all CustomResourceDefinitions of the steps are served."""
    waiting = [
        s.wanted for s in steps if s.item["kind"] == "CustomResourceDefinition" and not is_established(s.stored)
    ]
    deadline = time.monotonic() + timeout
    while waiting:
        waiting = [item for item in waiting if not is_established(client.read(item))]
        if waiting and time.monotonic() > deadline:
            raise ClusterError(f"not established: {', '.join(item['metadata']['name'] for item in waiting)}")
        if waiting:
            time.sleep(0.1)


def read(client, item):
    """What is stored; nothing where the kind is not served."""
    try:
        return client.read(item)
    except UnknownKind:
        return None


def run(module, client):
    """Plans over what is stored and writes what differs."""
    params, definitions = module.params, definitions_of(module.params)
    if params["state"] == "absent":
        steps = [plan_absent(item, read(client, item)) for item in reversed(definitions)]
    else:
        steps = [plan_present(item, read(client, item)) for item in definitions]
    write(module, client, steps, "mesh_daemon_adopt")
    if params["wait"] and params["state"] == "present" and not module.check_mode:
        wait_established(client, steps, params["wait_timeout"])
    return result(steps)


def main():
    """Runs the module."""
    arguments = spec(
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        definitions={"type": "list", "elements": "dict", "default": []},
        files={"type": "list", "elements": "path", "default": []},
        wait={"type": "bool", "default": True},
        wait_timeout={"type": "float", "default": 30.0},
        adopt={"type": "bool", "default": False},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    try:
        module.exit_json(**run(module, client_of(module)))
    except ClusterError as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
