# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The kubeconfigs of our accounts: objects present, token there, text made. Shared by the access modules."""

from __future__ import annotations

import base64
import re
import ssl
import time
from datetime import datetime, timezone
from pathlib import Path

from ansible_collections.clustermesh.core.plugins.module_utils import _access
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, Refused
from ansible_collections.clustermesh.core.plugins.module_utils._objects import LABEL, NAMESPACE, OWNER
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import (
    Step,
    carry_out,
    plan_absent,
    plan_present,
    plan_some,
)

# what a check run hands to later tasks where there is no token yet
PLACEHOLDER = "not-known-in-check-mode"
# what may follow Bearer; anything else is no token, and an error about the header would print it
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def plan(client, definitions):
    """The steps towards the definitions and their namespace, which may be anybody's."""
    namespace = _access.namespace()
    return [
        plan_some(namespace, client.read(namespace)),
        *(plan_present(item, client.read(item)) for item in definitions),
    ]


def plan_gone(client, definitions):
    """The steps away from the definitions. The namespace stays: other things of ours, and of others, may live there."""
    return [plan_absent(item, client.read(item)) for item in reversed(definitions)]


def token_secrets(client, account):
    """The Secrets of ours with long-lived tokens of an account, the newest last."""
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    found = client.items(path, f"{LABEL}={OWNER}", "type=kubernetes.io/service-account-token")
    ours = [item for item in found if _access.account_of(item) == account]
    ours.sort(key=lambda item: (item["metadata"]["creationTimestamp"], _access.generation(item)))
    return [{"apiVersion": "v1", "kind": "Secret", **item} for item in ours]


def is_accepted(module, client, account, token):
    """Whether the API server still accepts a token of an account; also when that cannot be told, with a warning.

    Asked with the token, by a read that every account may make. Where that is refused the API server is asked what it
    thinks of the token (TokenReview): a proxy in between may know none of the cluster's accounts.
    """
    if not TOKEN.fullmatch(token):
        return False
    try:
        client.by_token(token).request("GET", "/version")
    except ClusterError as problem:
        status = getattr(problem, "status", None)
        if status not in (401, 403):  # 403 is for an account that is known and may not even read that
            module.warn(f"the token of {account} is kept, although it is not known to be accepted: {problem}")
        if status != 401:
            return True
    else:
        return True
    if not _is_authentic(client, token):
        return False
    module.warn(
        f"the token of {account} is kept: {client.server} refuses it and its TokenReview accepts it, "
        "so something in between does not pass on tokens of the cluster's accounts"
    )
    return True


def _is_authentic(client, token):
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    try:
        answer = client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)
    except Refused:  # a right that we do not need otherwise
        return False
    return bool((answer.get("status") or {}).get("authenticated"))


def secret_steps(module, client, account, rotation="keep", in_use=()):
    """What is to be done about the long-lived tokens of an account; the first step is about the one to use.

    ``rotation`` keep uses the newest Secret and makes one where there is none; issue makes one beside it, unless an
    earlier rotation has not ended; retire removes those before the newest that is among ``in_use`` (names of Secrets),
    by default before the newest. A newest token that the API server refuses is replaced, and those before it stay.
    """
    stored = token_secrets(client, account)
    newest = stored[-1] if stored else None
    token = _stored_token(newest)
    is_refused = bool(token) and not is_accepted(module, client, account, token)
    following = _access.token_secret(account, _access.generation(newest) + 1 if newest else 1)
    if rotation == "retire" and module.check_mode and _name(following) in in_use:  # a run would have made it by now
        return [Step("keep", following, None), *_deletions(stored[:-1] if is_refused else stored)]
    if newest and not is_refused and not (rotation == "issue" and len(stored) == 1):
        steps = [plan_present(_access.token_secret(account, _access.generation(newest)), newest)]
    else:
        steps = [plan_present(following, client.read(following))]
    if is_refused:
        steps += _deletions([newest])
    elif rotation == "retire":
        used = (n for n, item in enumerate(stored) if _name(item) in in_use)
        steps += _deletions(stored[: max(used, default=len(stored) - 1)])
    return steps


def _name(secret):
    return secret["metadata"]["name"]


def _deletions(secrets):
    return [Step("delete", None, item) for item in secrets]


def without_tokens(client, account):
    """The steps that remove the long-lived tokens of an account."""
    return _deletions(token_secrets(client, account))


def issued_token(module, client, step):
    """The token in a Secret of which a step has been carried out, once the cluster has put it there.

    Before that a check run gets a placeholder.
    """
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


def kept_step(account, stored, token=PLACEHOLDER):
    """What is to be done about the Secret in which a requested token is kept."""
    return plan_present(_access.issued_secret(account, token), stored)


def requested_token(module, client, account, stored, rotation="keep"):
    """A token of bounded life (TokenRequest), issued anew only when the kept one does not do: (token, step, reason).

    ``rotation`` issue replaces it all the same; the one before lives until its end.
    """
    expiration, renew_before = module.params["expiration"], module.params["renew_before"]
    holder = client.read(_access.account(account)) or {"metadata": {}}
    uid, token = holder["metadata"].get("uid"), _stored_token(stored)
    reason = _access.renewal(token, uid, time.time(), renew_before)
    if not reason and not is_accepted(module, client, account, token):
        reason = "refused"
    if not reason and rotation == "issue":
        reason = "rotated"
    if not reason:
        return token, kept_step(account, stored, token), ""
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
    step = kept_step(account, stored, token)
    if not module.check_mode:
        carry_out(client, [step])
    return token, step, reason


def _stored_token(stored):
    encoded = ((stored or {}).get("data") or {}).get("token")
    return base64.b64decode(encoded).decode(errors="replace") if encoded else ""


def expires_at(token):
    """When a token ends, in RFC 3339; empty for one that does not."""
    end = _access.claims(token).get("exp")
    return datetime.fromtimestamp(end, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if end else ""


def _certificates(file):
    """The certificates in a file (PEM)."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as problem:
        raise ClusterError(f"server_ca_cert is {file}, which holds no certificates (PEM)") from problem
    except OSError as problem:
        raise ClusterError(f"server_ca_cert is {file}: {problem.strerror}") from problem
    return text


def kubeconfig_of(module, client, token, name):
    """A kubeconfig that authenticates by a token."""
    params = module.params
    server = params.get("server") or client.server
    tls = params.get("tls_server_name") or client.tls_server_name or ""
    authority = _certificates(params["server_ca_cert"]) if params.get("server_ca_cert") else client.authority
    text = _access.kubeconfig(name, server, authority, token, tls)
    return {
        "kubeconfig": text,
        "server": server,
        "ca_sha256": _access.fingerprint(authority),
        "credential": _access.fingerprint(text)[:16],
        "expires_at": expires_at(token),
    }
