# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The kubeconfigs of our accounts: objects present, token there, text made. Shared by the access modules."""

from __future__ import annotations

import base64
import time
from datetime import datetime, timezone

from ansible_collections.clustermesh.core.plugins.module_utils import _access
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError
from ansible_collections.clustermesh.core.plugins.module_utils._objects import NAMESPACE
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


def secret_token(module, client, account, steps):
    """The long-lived token of an account; waits for the cluster to issue it, with a placeholder in a check run before that."""
    wanted = _access.token_secret(account)
    stored = next(
        (s.stored for s in steps if s.item["metadata"]["name"] == wanted["metadata"]["name"] and s.stored), None
    )
    deadline = time.monotonic() + module.params["wait_timeout"]
    while True:
        token = _stored_token(stored)
        if token:
            return token
        if module.check_mode:
            return PLACEHOLDER
        if time.monotonic() > deadline:
            raise ClusterError(
                f"no token appeared in Secret {wanted['metadata']['name']} within {module.params['wait_timeout']:g} s: "
                "does the cluster's controller manager run its token controller?"
            )
        time.sleep(0.1)
        stored = client.read(wanted)


def requested_token(module, client, account, expiration, renew_before):
    """A token of bounded life (TokenRequest), issued anew only when the kept one does not do: (token, step, reason)."""
    template = _access.issued_secret(account, PLACEHOLDER)
    stored = client.read(template)
    holder = client.read(_access.account(account)) or {"metadata": {}}
    uid, token = holder["metadata"].get("uid"), _stored_token(stored)
    reason = _access.renewal(token, uid, time.time(), renew_before)
    if not reason:
        return token, plan_present(_access.issued_secret(account, token), stored), ""
    token = PLACEHOLDER
    if not module.check_mode:
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": int(expiration)},
        }
        token = client.request("POST", path, body)["status"]["token"]
        if _access.renewal(token, uid, time.time(), renew_before) == "expiring":
            module.warn(
                f"the API server grants tokens until {expires_at(token)} only, so every run renews: lower renew_before"
            )
    step = plan_present(_access.issued_secret(account, token), stored)
    if not module.check_mode:
        carry_out(client, [step])
    return token, step, reason


def _stored_token(stored):
    encoded = ((stored or {}).get("data") or {}).get("token")
    return base64.b64decode(encoded).decode() if encoded else ""


def expires_at(token):
    """When a token ends, in RFC 3339; empty for one that does not."""
    end = _access.claims(token).get("exp")
    return datetime.fromtimestamp(end, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if end else ""


def kubeconfig_of(module, client, token, name):
    """A kubeconfig that authenticates by a token."""
    params = module.params
    server = params.get("server") or client.server
    tls = params.get("tls_server_name") or client.tls_server_name or ""
    text = _access.kubeconfig(name, server, client.authority, token, tls)
    return {
        "kubeconfig": text,
        "server": server,
        "ca_sha256": _access.fingerprint(client.authority),
        "expires_at": expires_at(token),
    }
