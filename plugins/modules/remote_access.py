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
  - The token lives in a Secret of type C(kubernetes.io/service-account-token) until that Secret is removed.
options:
  state:
    description: Whether the account is to be there.
    type: str
    choices: [present, absent]
    default: present
  server:
    description: URL under which peers reach the API server, by default the one that this module uses.
    type: str
  tls_server_name:
    description: Name in the API server's certificate, where it is not the one in the URL.
    type: str
  wait_timeout:
    description: Seconds to wait until the cluster has issued the token.
    type: float
    default: 30.0
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
    """Makes the account and reads its token."""
    steps = _tokens.reconcile(module, client, _access.remote_objects())
    answer = result(steps)
    if module.params["state"] == "present":
        answer.update(_tokens.kubeconfig_of(module, client, _access.REMOTE, steps, "clustermesh"))
    return answer


def main():
    """Runs the module."""
    arguments = spec(
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
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
