#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: remote_access
short_description: Let other clusters read a cluster
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Makes the account by which the peers of a cluster read it, and returns a kubeconfig for them.
  - The account can read nodes, namespaces, pods, service accounts, services, endpoints and endpoint slices, and Calico's
    IP pools, blocks, host endpoints and network sets. It can read no Secrets and no ConfigMaps, and write nothing.
options:
  state:
    description: Whether the account is to be there.
    type: str
    choices: [present, absent]
    default: present
  token_type:
    description:
      - V(secret) is a token without end. It lives in a Secret C(clustermesh-remote-token) of type
        C(kubernetes.io/service-account-token), C(clustermesh-remote-token-2) after a rotation, until that Secret is removed.
        One that the API server does not accept any more is replaced by the next.
      - V(request) is a token of bounded life (TokenRequest). It is kept in a Secret C(clustermesh-remote-issued) and issued
        anew by the run that finds it missing, near its end, of an account that was made again, or refused by the API server.
        So run regularly.
      - A token of the other type stays until its Secret is removed, so that changing the type interrupts no peer.
    type: str
    choices: [secret, request]
    default: secret
  expiration:
    description: Seconds that a requested token is to live; the API server may grant less.
    type: int
    default: 2592000
  renew_before:
    description: Seconds before its end from which on a requested token is replaced.
    type: int
    default: 604800
  rotation:
    description:
      - V(keep) uses the token that is there.
      - V(issue) makes a new one beside it and returns the new one; when an earlier rotation did not end, the one that it
        made. A requested token is replaced, and the one before stays good until its own end.
      - V(retire) removes every token before the newest, also one of the other type. Only when every peer uses the newest.
    type: str
    choices: [keep, issue, retire]
    default: keep
  in_use:
    description:
      - With O(rotation=retire), names of Secrets whose tokens are in use, as RV(objects) of the run with V(issue) has them;
        only older ones are removed then, and a check run knows of the one that a run would have made.
      - By default the newest is in use.
    type: list
    elements: str
    default: []
  server:
    description: URL under which peers reach the API server, by default the one that this module uses.
    type: str
  server_ca_cert:
    description: File with the certificates (PEM) that vouch for the API server there, by default those by which this module verifies it.
    type: path
  tls_server_name:
    description: Name in the API server's certificate, where it is not the one in the URL.
    type: str
  kubeconfig_file:
    description:
      - File, on the host where the module runs, that is to hold the kubeconfig, readable for its owner alone. Its folder must
        be there. It is written when it says something else or others may read it.
      - With O(state=absent) it is removed.
    type: path
  wait_timeout:
    description: Seconds to wait until the cluster has issued the token.
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
  - RV(kubeconfig) is a secret; set C(no_log) on the task.
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.attributes
"""

EXAMPLES = r"""
- name: Let peers read oslo
  clustermesh.core.remote_access:
    kubeconfig: oslo.kubeconfig
    server: https://oslo.example:6443
  register: oslo_access
  no_log: true

- name: Let peers read oslo, with the kubeconfig in a file for those whom Ansible does not reach
  clustermesh.core.remote_access:
    kubeconfig: oslo.kubeconfig
    server: https://oslo.example:6443
    kubeconfig_file: /root/oslo-for-peers.kubeconfig
  no_log: true
"""

RETURN = r"""
kubeconfig:
  description: Content of a kubeconfig; in a check run, before there is a token, one with a placeholder.
  type: str
  returned: when O(state=present)
server:
  description: URL of the API server in the kubeconfig.
  type: str
  returned: when O(state=present)
ca_sha256:
  description: Digest of the certificates in the kubeconfig.
  type: str
  returned: when O(state=present)
credential:
  description: Short digest of the kubeconfig; the controller of a peer names it in its status once that works.
  type: str
  returned: when O(state=present)
  sample: 0123456789abcdef
expires_at:
  description: When the token ends, empty when it does not.
  type: str
  returned: when O(state=present)
  sample: "2026-05-01T12:00:00Z"
renewed:
  description:
    - Why the token was issued anew (V(missing), V(expiring), V(sa_recreated), V(refused), V(rotated)), empty when it was
      not.
  type: str
  returned: when O(state=present) and O(token_type=request)
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

from ansible_collections.clustermesh.core.plugins.module_utils import _access, _kubeconfig_file, _tokens
from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, client_of
from ansible_collections.clustermesh.core.plugins.module_utils._objects import is_ours, name_of
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import Step, result, write

ADOPT = "mesh_access_adopt"


def run(module, client):
    """Makes the account and reads its token."""
    params, definitions, rotation = module.params, _access.remote_objects(), module.params["rotation"]
    kept = _access.issued_secret(_access.REMOTE, "")
    if params["state"] == "absent":
        steps = _tokens.plan_gone(client, [*definitions, kept, *_tokens.token_secrets(client, _access.REMOTE)])
        write(module, client, steps, ADOPT)
        return result(steps)
    steps, issued, more = _tokens.plan(client, definitions), client.read(kept), {}
    if params["token_type"] == "secret":  # noqa: S105
        made = _tokens.secret_steps(module, client, _access.REMOTE, rotation, params["in_use"])
        write(module, client, [*steps, *made], ADOPT)
        token = _tokens.issued_token(module, client, made[0])
        others = [issued] if issued else []
    else:
        write(module, client, steps, ADOPT, later=[_tokens.kept_step(_access.REMOTE, issued)])
        token, step, reason = _tokens.requested_token(module, client, _access.REMOTE, issued, rotation)
        made, more = [step], {"renewed": reason}
        others = _tokens.token_secrets(client, _access.REMOTE)
    if rotation == "retire":
        retired = [Step("delete", None, item) for item in others if is_ours(item)]
        write(module, client, retired, ADOPT)
        made = [*made, *retired]
    elif others:
        names = ", ".join(map(name_of, others))
        module.warn(f"{names} still gives access; playbook rotate removes it when every peer has the new token")
    return {**result([*steps, *made]), **more, **_tokens.kubeconfig_of(module, client, token, "clustermesh")}


def with_file(module, path, answer):
    """The answer, after its kubeconfig went to the file that is to hold it."""
    text = answer.get("kubeconfig")
    try:
        change = _kubeconfig_file.difference(path, text)
        if change and not module.check_mode:
            _kubeconfig_file.write(path, text)
    except OSError as problem:
        raise ClusterError(f"kubeconfig_file is {path}: {problem.strerror}") from problem
    if not change:
        return answer
    return {**answer, "changed": True, "diff": [*answer["diff"], change]}


def main():
    """Runs the module."""
    arguments = spec(
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        token_type={"type": "str", "choices": ["secret", "request"], "default": "secret", "no_log": False},
        rotation={"type": "str", "choices": ["keep", "issue", "retire"], "default": "keep"},
        in_use={"type": "list", "elements": "str", "default": []},
        expiration={"type": "int", "default": 2592000},
        renew_before={"type": "int", "default": 604800},
        server={"type": "str"},
        server_ca_cert={"type": "path"},
        tls_server_name={"type": "str"},
        kubeconfig_file={"type": "path"},
        wait_timeout={"type": "float", "default": 30.0},
        adopt={"type": "bool", "default": False},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    if not module.params["renew_before"] < module.params["expiration"]:
        module.fail_json(msg="renew_before must be less than expiration, or every run would issue a new token")
    file = module.params["kubeconfig_file"]
    try:
        if file and module.params["state"] == "present":
            _kubeconfig_file.refuse_bad(file)
        answer = run(module, client_of(module))
        if file:
            answer = with_file(module, file, answer)
    except ClusterError as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
