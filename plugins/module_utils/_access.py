# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Who may do what in a cluster: the account of peers, and those of our own daemons. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import json

from ansible_collections.clustermesh.core.plugins.module_utils._objects import NAMESPACE

RBAC = "rbac.authorization.k8s.io"
REMOTE = "clustermesh-remote"
CONTROLLER = "clustermesh-controller"
AGENT = "clustermesh-agent"
CALICO = ("ipamblocks", "ippools", "hostendpoints", "networksets")
READ = ("get", "list", "watch")
WATCH = ("list", "watch")
OWN = ("list", "watch", "create", "patch", "delete")  # a patch is a server-side apply
REPLACE = (*OWN, "update")  # what is large is updated
ACCOUNT = "kubernetes.io/service-account.name"


def _rule(groups, resources, verbs, **more):
    return {"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs), **more}


REMOTE_RULES = [
    _rule([""], ["nodes", "namespaces", "pods", "serviceaccounts", "services", "endpoints"], READ),
    _rule(["discovery.k8s.io"], ["endpointslices"], READ),
    _rule(["crd.projectcalico.org", "projectcalico.org"], CALICO, READ),
    _rule(["clustermesh.io"], ["remoteclusterconfigurations"], WATCH),  # whether the peering is mutual
]
CONTROLLER_RULES = [
    _rule([""], ["nodes", "pods", "services"], WATCH),
    _rule([""], ["namespaces"], ["get"], resourceNames=["kube-system"]),
    _rule([""], ["endpoints"], REPLACE),
    _rule(["discovery.k8s.io"], ["endpointslices"], REPLACE),
    _rule(["networking.k8s.io"], ["servicecidrs"], WATCH),
    _rule(["crd.projectcalico.org", "projectcalico.org"], ["ipamblocks", "ippools"], WATCH),
    _rule(["clustermesh.io", "projectcalico.org"], ["remoteclusterconfigurations"], WATCH),
    _rule(["clustermesh.io"], ["remoteclusterconfigurations/status"], ["patch"]),
    _rule(["clustermesh.io"], ["remotenodes"], OWN),
    _rule(["clustermesh.io"], ["meshnodes"], [*WATCH, "create", "patch"]),
    _rule([""], ["events"], ["create", "patch"]),
]
LEASE_RULES = [_rule(["coordination.k8s.io"], ["leases"], ["get", "create", "update"])]
AGENT_RULES = [
    _rule([""], ["nodes"], WATCH),
    _rule([""], ["namespaces"], ["get"], resourceNames=["kube-system"]),
    _rule(["clustermesh.io"], ["remotenodes"], WATCH),
    _rule(["clustermesh.io"], ["meshnodes"], [*WATCH, "create", "patch"]),
    _rule(["clustermesh.io"], ["meshnodes/status"], ["patch"]),
]


def namespace():
    """The namespace of everything of ours."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def account(name):
    """A ServiceAccount."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}}


def token_secret(name, number=1):
    """The Secret in which the cluster puts a long-lived token of an account; each rotation makes one of the next number."""
    meta = {
        "name": f"{name}-token" + (f"-{number}" if number > 1 else ""),
        "namespace": NAMESPACE,
        "annotations": {ACCOUNT: name},
    }
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/service-account-token"}


def account_of(secret):
    """Name of the account whose token a Secret holds."""
    return (secret["metadata"].get("annotations") or {}).get(ACCOUNT)


def generation(secret):
    """The number of a token Secret."""
    number = secret["metadata"]["name"].rpartition("-token-")[2]
    return int(number) if number.isdigit() else 1


def issued_secret(name, token):
    """The Secret in which we keep a token of bounded life that the API server issued to an account."""
    meta = {"name": f"{name}-issued", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "stringData": {"token": token}}


def claims(token):
    """What a token says of itself (its payload, unverified); nothing for what is no JSON web token."""
    try:
        payload = token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return {}


def renewal(token, account_uid, now, renew_before):
    """Why a token is to be replaced: missing, sa_recreated or expiring; empty while it is good."""
    said = claims(token)
    if not said.get("exp"):
        return "missing"
    if ((said.get("kubernetes.io") or {}).get("serviceaccount") or {}).get("uid") != account_uid:
        return "sa_recreated"
    return "expiring" if said["exp"] - now <= renew_before else ""


def role_and_binding(name, subject, rules, namespaced=False):
    """A (Cluster)Role and its binding to one of our accounts."""
    prefix = "" if namespaced else "Cluster"
    meta = {"name": name, **({"namespace": NAMESPACE} if namespaced else {})}
    version = f"{RBAC}/v1"
    role = {"apiVersion": version, "kind": f"{prefix}Role", "metadata": meta, "rules": rules}
    binding = {
        "apiVersion": version,
        "kind": f"{prefix}RoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": RBAC, "kind": f"{prefix}Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": subject, "namespace": NAMESPACE}],
    }
    return [role, binding]


def remote_objects():
    """Everything that lets peers read this cluster, but for namespace and token."""
    return [account(REMOTE), *role_and_binding(REMOTE, REMOTE, REMOTE_RULES)]


def daemon_objects():
    """Everything that lets our own controller and agents work in this cluster, but for namespace and tokens."""
    return [
        account(CONTROLLER),
        account(AGENT),
        *role_and_binding(CONTROLLER, CONTROLLER, CONTROLLER_RULES),
        *role_and_binding(f"{CONTROLLER}-lease", CONTROLLER, LEASE_RULES, namespaced=True),
        *role_and_binding(AGENT, AGENT, AGENT_RULES),
    ]


def kubeconfig(name, server, authority, token, tls_server_name=""):
    """A kubeconfig with one cluster, one user and one context."""
    cluster = {"server": server}
    if authority:
        cluster["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
    if tls_server_name:
        cluster["tls-server-name"] = tls_server_name
    lines = ["apiVersion: v1", "kind: Config", "clusters:", f"  - name: {name}", "    cluster:"]
    lines += [f"      {key}: {json.dumps(value)}" for key, value in cluster.items()]
    lines += ["users:", f"  - name: {name}", "    user:", f"      token: {json.dumps(token)}"]
    lines += ["contexts:", f"  - name: {name}", "    context:", f"      cluster: {name}", f"      user: {name}"]
    return "\n".join([*lines, f"current-context: {name}", ""])


def fingerprint(authority):
    """Digest of a PEM bundle, empty for none."""
    return hashlib.sha256(authority.encode()).hexdigest() if authority else ""
