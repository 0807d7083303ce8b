#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_access
short_description: Let controller and agents work in their own cluster
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Makes the accounts C(clustermesh-controller) and C(clustermesh-agent) with exactly the rights they need, and returns a
    kubeconfig for each.
options:
  state:
    description: Whether the accounts are to be there.
    type: str
    choices: [present, absent]
    default: present
  rotation:
    description:
      - V(keep) uses the tokens that are there, V(issue) makes new ones beside them, V(retire) removes all but the newest.
      - As for M(clustermesh.core.remote_access).
    type: str
    choices: [keep, issue, retire]
    default: keep
  tokens:
    description:
      - Whether the accounts have long-lived tokens. Daemons that run as pods get short-lived ones from their nodes and
        need none; those that are there are removed then.
    type: bool
    default: true
  server:
    description: URL under which the nodes reach their API server, by default the one that this module uses.
    type: str
  tls_server_name:
    description: Name in the API server's certificate, where it is not the one in the URL.
    type: str
  wait_timeout:
    description: Seconds to wait until the cluster has issued the tokens.
    type: float
    default: 30.0
notes:
  - RV(controller_kubeconfig) and RV(agent_kubeconfig) are secrets; set C(no_log) on the task.
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.attributes
"""

EXAMPLES = r"""
- name: Let the daemons of oslo work
  clustermesh.core.daemon_access:
    kubeconfig: oslo.kubeconfig
  register: oslo_daemons
  no_log: true
"""

RETURN = r"""
controller_kubeconfig:
  description: Content of the controller's kubeconfig.
  type: str
  returned: when O(state=present) and O(tokens=true)
agent_kubeconfig:
  description: Content of the agents' kubeconfig.
  type: str
  returned: when O(state=present) and O(tokens=true)
objects:
  description: What was done with each object.
  type: list
  elements: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _access, _tokens
from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import result


def run(module, client):
    """Makes the accounts and reads their tokens."""
    definitions, accounts = _access.daemon_objects(), (_access.CONTROLLER, _access.AGENT)
    if module.params["state"] == "absent":
        tokens = [secret for account in accounts for secret in _tokens.token_secrets(client, account)]
        return result(_tokens.reconcile(module, client, [*definitions, *tokens]))
    steps, kubeconfigs = _tokens.reconcile(module, client, definitions), {}
    for key, account in zip(("controller", "agent"), accounts):
        if not module.params["tokens"]:
            steps += _tokens.without_tokens(module, client, account)
            continue
        token, made = _tokens.secret_token(module, client, account, module.params["rotation"])
        steps += made
        kubeconfigs[f"{key}_kubeconfig"] = _tokens.kubeconfig_of(module, client, token, "clustermesh")["kubeconfig"]
    return {**result(steps), **kubeconfigs}


def main():
    """Runs the module."""
    arguments = spec(
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        rotation={"type": "str", "choices": ["keep", "issue", "retire"], "default": "keep"},
        tokens={"type": "bool", "default": True},
        server={"type": "str"},
        tls_server_name={"type": "str"},
        wait_timeout={"type": "float", "default": 30.0},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    try:
        answer = run(module, client_of(module))
    except ClusterError as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
