# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The kubeconfigs of our accounts: objects present, token there, text made. Shared by the access modules."""

from __future__ import annotations

import base64
import time
from datetime import datetime, timezone

from ansible_collections.clustermesh.core.plugins.module_utils import _access
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError
from ansible_collections.clustermesh.core.plugins.module_utils._objects import LABEL, NAMESPACE, OWNER
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import (
    Step,
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


def token_secrets(client, account):
    """The Secrets of ours with long-lived tokens of an account, the newest last."""
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    found = client.items(path, f"{LABEL}={OWNER}", "type=kubernetes.io/service-account-token")
    ours = [item for item in found if _access.account_of(item) == account]
    ours.sort(key=lambda item: (item["metadata"]["creationTimestamp"], _access.generation(item)))
    return [{"apiVersion": "v1", "kind": "Secret", **item} for item in ours]


def secret_token(module, client, account, rotation="keep"):
    """The long-lived token of an account and the steps towards it.

    ``rotation`` keep uses the newest Secret and makes one where there is none; issue makes one beside it, unless an
    earlier rotation has not ended; retire removes all but the newest. Waits for the cluster to issue the token, with a
    placeholder in a check run before that.
    """
    stored = token_secrets(client, account)
    steps = []
    if not stored:
        steps = [plan_present(_access.token_secret(account), None)]
    elif rotation == "issue" and len(stored) == 1:
        number = _access.generation(stored[0]) + 1
        steps = [plan_present(_access.token_secret(account, number), None)]
    else:
        newest = stored[-1]
        steps = [plan_present(_access.token_secret(account, _access.generation(newest)), newest)]
    if rotation == "retire":
        steps += [Step("delete", None, item) for item in stored[:-1]]
    if not module.check_mode:
        carry_out(client, steps)
    return _issued_token(module, client, steps[0]), steps


def without_tokens(module, client, account):
    """Removes the long-lived tokens of an account; returns the steps."""
    steps = [Step("delete", None, item) for item in token_secrets(client, account)]
    if not module.check_mode:
        carry_out(client, steps)
    return steps


def _issued_token(module, client, step):
    stored = step.stored
    deadline = time.monotonic() + (module.params.get("wait_timeout") or 30.0)
    while True:
        token = _stored_token(stored)
        if token:
            return token
        if module.check_mode:
            return PLACEHOLDER
        if time.monotonic() > deadline:
            raise ClusterError(
                f"no token appeared in Secret {step.item['metadata']['name']} within "
                f"{module.params['wait_timeout']:g} s: does the cluster's controller manager run its token controller?"
            )
        time.sleep(0.1)
        stored = client.read(step.wanted)


def requested_token(module, client, account, expiration, renew_before, rotation="keep"):
    """A token of bounded life (TokenRequest), issued anew only when the kept one does not do: (token, step, reason).

    ``rotation`` issue replaces it all the same; the one before lives until its end.
    """
    template = _access.issued_secret(account, PLACEHOLDER)
    stored = client.read(template)
    holder = client.read(_access.account(account)) or {"metadata": {}}
    uid, token = holder["metadata"].get("uid"), _stored_token(stored)
    reason = _access.renewal(token, uid, time.time(), renew_before)
    if not reason and rotation == "issue":
        reason = "rotated"
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
        "credential": _access.fingerprint(text)[:16],
        "expires_at": expires_at(token),
    }
