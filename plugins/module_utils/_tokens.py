# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The kubeconfigs of our accounts: objects present, token there, text made. Shared by the access modules."""

from __future__ import annotations

import base64
import time

from ansible_collections.clustermesh.core.plugins.module_utils import _access
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import (
    carry_out,
    plan_absent,
    plan_present,
)

# what a check run hands to later tasks where there is no token yet
PLACEHOLDER = "not-known-in-check-mode"


def reconcile(module, client, definitions):
    """Makes the definitions hold (or be gone, for state absent); returns the steps."""
    absent = module.params["state"] == "absent"
    if absent:
        # the namespace stays: other things of ours, and of others, may live there
        definitions = [item for item in reversed(definitions) if item["kind"] != "Namespace"]
    plan = plan_absent if absent else plan_present
    steps = [plan(item, client.read(item)) for item in definitions]
    if not module.check_mode:
        carry_out(client, steps)
    return steps


def token_of(module, client, account, steps):
    """The token of an account; waits for the cluster to issue it, with a placeholder in a check run before that."""
    wanted = _access.token_secret(account)
    stored = next(
        (s.stored for s in steps if s.item["metadata"]["name"] == wanted["metadata"]["name"] and s.stored), None
    )
    deadline = time.monotonic() + module.params["wait_timeout"]
    while True:
        token = ((stored or {}).get("data") or {}).get("token")
        if token:
            return base64.b64decode(token).decode()
        if module.check_mode:
            return PLACEHOLDER
        if time.monotonic() > deadline:
            raise ClusterError(
                f"no token appeared in Secret {wanted['metadata']['name']} within {module.params['wait_timeout']:g} s: "
                "does the cluster's controller manager run its token controller?"
            )
        time.sleep(0.1)
        stored = client.read(wanted)


def kubeconfig_of(module, client, account, steps, name):
    """A kubeconfig that authenticates as an account."""
    params = module.params
    server = params.get("server") or client.server
    tls = params.get("tls_server_name") or client.tls_server_name or ""
    text = _access.kubeconfig(name, server, client.authority, token_of(module, client, account, steps), tls)
    return {"kubeconfig": text, "server": server, "ca_sha256": _access.fingerprint(client.authority)}
