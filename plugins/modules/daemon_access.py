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
      - As for M(clustermesh.core.remote_access). A token that the API server does not accept any more is replaced.
    type: str
    choices: [keep, issue, retire]
    default: keep
  in_use:
    description: With O(rotation=retire), names of Secrets whose tokens are in use. As for M(clustermesh.core.remote_access).
    type: list
    elements: str
    default: []
  tokens:
    description:
      - Whether the accounts have long-lived tokens. Daemons that run as pods get short-lived ones from their nodes and
        need none; those that are there are removed then.
    type: bool
    default: true
  server:
    description: URL under which the nodes reach their API server, by default the one that this module uses.
    type: str
  server_ca_cert:
    description: File with the certificates (PEM) that vouch for the API server there, by default those by which this module verifies it.
    type: path
  tls_server_name:
    description: Name in the API server's certificate, where it is not the one in the URL.
    type: str
  wait_timeout:
    description: Seconds to wait until the cluster has issued the tokens.
    type: float
    default: 30.0
  adopt:
    description:
      - Whether to take over objects of the same names which do not carry our label. Otherwise they are in the way and
        nothing is written.
      - The namespace C(clustermesh-system) may be anybody's; it is used as it is.
    type: bool
    default: false
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
conflicts:
  description: Objects that are in the way and not ours.
  type: list
  elements: str
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _access, _tokens
from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import result, write

ADOPT = "mesh_daemon_adopt"


def run(module, client):
    """Makes the accounts and reads their tokens."""
    params, definitions = module.params, _access.daemon_objects()
    accounts = {"controller": _access.CONTROLLER, "agent": _access.AGENT}
    if params["state"] == "absent":
        tokens = [secret for account in accounts.values() for secret in _tokens.token_secrets(client, account)]
        steps = _tokens.plan_gone(client, [*definitions, *tokens])
        write(module, client, steps, ADOPT)
        return result(steps)
    steps = _tokens.plan(client, definitions)
    if not params["tokens"]:
        gone = [step for account in accounts.values() for step in _tokens.without_tokens(client, account)]
        write(module, client, [*steps, *gone], ADOPT)
        return result([*steps, *gone])
    made = {
        key: _tokens.secret_steps(module, client, account, params["rotation"], params["in_use"])
        for key, account in accounts.items()
    }
    steps += [step for one in made.values() for step in one]
    write(module, client, steps, ADOPT)
    tokens = {key: _tokens.issued_token(module, client, one[0]) for key, one in made.items()}
    return {
        **result(steps),
        **{
            f"{key}_kubeconfig": _tokens.kubeconfig_of(module, client, token, "clustermesh")["kubeconfig"]
            for key, token in tokens.items()
        },
    }


def main():
    """Runs the module."""
    arguments = spec(
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        rotation={"type": "str", "choices": ["keep", "issue", "retire"], "default": "keep"},
        in_use={"type": "list", "elements": "str", "default": []},
        tokens={"type": "bool", "default": True},
        server={"type": "str"},
        server_ca_cert={"type": "path"},
        tls_server_name={"type": "str"},
        wait_timeout={"type": "float", "default": 30.0},
        adopt={"type": "bool", "default": False},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    try:
        answer = run(module, client_of(module))
    except ClusterError as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
