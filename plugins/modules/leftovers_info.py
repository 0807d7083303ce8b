#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: leftovers_info
short_description: Name what is left of the mesh, or of some peers, in a cluster
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Lists what carries our label, or with O(peers) what belongs to those peers alone, and what nodes still route to them.
options:
  peers:
    description: Look only for what belongs to these peers.
    type: list
    elements: str
    default: []
  mirrored_only:
    description: Look only for what controllers and agents made of peers, not for what Ansible made.
    type: bool
    default: false
  wait:
    description: Seconds to wait until nothing is left.
    type: float
    default: 0.0
extends_documentation_fragment:
  - clustermesh.core.cluster
  - clustermesh.core.attributes.info
"""

EXAMPLES = r"""
- name: See what is left of rome in paris
  clustermesh.core.leftovers_info:
    kubeconfig: paris.kubeconfig
    peers: [rome]
  register: paris
  failed_when: paris.left | length > 0
"""

RETURN = r"""
left:
  description: What is left, by kind and name.
  type: list
  elements: str
  returned: success
  sample: [Secret clustermesh-system/mesh-access-rome, node n1 routes to rome]
serving:
  description:
    - Endpoints and slices of federated Services with local backends. They stay, because clients use them; remove the
      annotation of the Service, or the Service, to be rid of them.
  type: list
  elements: str
  returned: success
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _leftovers
from ansible_collections.clustermesh.core.plugins.module_utils._args import spec
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, client_of


def look(client, params):
    """What is left now."""
    wanted = _leftovers.MIRRORED if params["mirrored_only"] else _leftovers.ALL
    found = [
        {"kind": kind, **item}
        for kind, path in wanted.items()
        for item in client.items(path, _leftovers.selector(kind))
    ]
    return _leftovers.left(found, params["peers"], params["mirrored_only"])


def main():
    """Runs the module."""
    arguments = spec(
        peers={"type": "list", "elements": "str", "default": []},
        mirrored_only={"type": "bool", "default": False},
        wait={"type": "float", "default": 0.0},
    )
    module = AnsibleModule(arguments, supports_check_mode=True)
    deadline = time.monotonic() + module.params["wait"]
    try:
        client = client_of(module)
        while True:
            answer = look(client, module.params)
            if not answer["left"] or time.monotonic() > deadline:
                module.exit_json(changed=False, **answer)
            time.sleep(0.5)
    except ClusterError as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
