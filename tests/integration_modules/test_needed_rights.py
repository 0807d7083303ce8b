"""Who may do what preflight asks for, and nothing else, can mesh a cluster and take that away; all of it is used."""

from __future__ import annotations

import time

import pytest
import yaml
from ansible_collections.clustermesh.core.plugins.module_utils import _rights
from ansible_collections.clustermesh.core.plugins.module_utils._rights import Right
from clustermesh_lab import calico

from tests.integration_modules.direct import Direct
from tests.integration_modules.runner import apply, audit

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SYSTEM = "clustermesh-system"
GROUPS = ["system:serviceaccounts", "system:serviceaccounts:default"]
USER = "system:serviceaccount:default:mesher"
RBAC = "rbac.authorization.k8s.io"
NOT_USED = {Right("get", "", "services", "default")}  # but of API servers older than 1.33
WORKLOAD = {
    "selector": {"matchLabels": {"app": "x"}},
    "template": {
        "metadata": {"labels": {"app": "x"}},
        "spec": {"containers": [{"name": "x", "image": "x"}], "nodeSelector": {"no": "node"}},
    },
}
WORKLOADS = [
    {"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": SYSTEM}, "spec": spec}
    for version, kind, spec in (
        ("apps/v1", "DaemonSet", WORKLOAD),
        ("apps/v1", "Deployment", WORKLOAD),
        ("policy/v1", "PodDisruptionBudget", {"maxUnavailable": 1, "selector": WORKLOAD["selector"]}),
    )
]


@pytest.fixture(scope="module")
def modules(tmp_path_factory) -> Direct:
    return Direct(tmp_path_factory.mktemp("collections"))


def grant(plane, rights: list[Right], places: tuple[str, ...]) -> None:
    """Gives the account these rights, those to other namespaces than ``places`` everywhere, and takes all others."""
    subjects = [{"kind": "ServiceAccount", "name": "mesher", "namespace": "default"}]
    items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place}} for place in places]
    for place in ("", *places):
        prefix, meta = "" if place else "Cluster", {"name": "mesher"} | ({"namespace": place} if place else {})
        rules = [
            {"apiGroups": [r.group], "resources": [r.resource], "verbs": [r.verb]}
            | ({"resourceNames": [r.name]} if r.name else {})
            for r in rights
            if (r.namespace if r.namespace in places else "") == place
        ]
        items.append({"apiVersion": f"{RBAC}/v1", "kind": f"{prefix}Role", "metadata": meta, "rules": rules})
        reference = {"apiGroup": RBAC, "kind": f"{prefix}Role", "name": "mesher"}
        items.append({
            "apiVersion": f"{RBAC}/v1", "kind": f"{prefix}RoleBinding", "metadata": meta, "roleRef": reference,
            "subjects": subjects,
        })  # fmt: skip
    apply(plane, *items)


def used(plane) -> set[Right]:
    """What the account was allowed to do and did; a server-side apply that made something took the right to create."""
    found = set()
    for event in audit(plane, USER):
        what = event.get("objectRef") or {}
        if not what or "selfsubject" in what["resource"] or event["responseStatus"]["code"] == 403:
            continue
        sub = f"/{what['subresource']}" if what.get("subresource") else ""
        place = "" if what["resource"] == "namespaces" else what.get("namespace", "")
        is_made = event["verb"] == "patch" and event["responseStatus"]["code"] == 201
        for verb in [event["verb"], *(["create"] if is_made else [])]:
            found.add(Right(verb, what.get("apiGroup", ""), what["resource"] + sub, place))
    return found


def forbidden(plane) -> list[str]:
    return [f"{e['verb']} {e['requestURI']}" for e in audit(plane, USER) if e["responseStatus"]["code"] == 403]


def denied(modules: Direct, options: dict, count: int) -> list[str]:
    """What preflight says is missing; rights take a moment to be known to the API server."""
    deadline = time.monotonic() + 20
    while True:
        answer = modules.run("preflight_info", {"name": "rome", **options})
        found = answer["facts"].get("denied")
        if found is not None and len(found) == count:
            assert [item["id"] for item in answer["findings"] if item["id"] == "rights"] == ["rights"] * bool(count)
            return found
        assert time.monotonic() < deadline, answer
        time.sleep(0.5)


def mesh_and_leave(
    modules: Direct, auth: dict, crds: list[str], *, token_type: str, peer: dict, workloads: bool
) -> None:
    """All that the playbooks do in a cluster, from its first object to its last."""

    def run(module: str, **options) -> dict:
        answer = modules.run(module, {**auth, **options})
        assert not answer.get("failed"), answer
        return answer

    run("manifests", files=crds)
    for rotation in ("keep", "issue", "retire"):
        access = run("remote_access", token_type=token_type, rotation=rotation)
        run("daemon_access", rotation=rotation)
    run("peering", peers=[{"name": "oslo", "kubeconfig": access["kubeconfig"], **peer}])
    if workloads:
        run("daemon_access", tokens=False)
        run("manifests", definitions=WORKLOADS)
    run("mesh_info", check_rights=True, sample_pods=3)
    run("peering", peers=[])
    run("manifests", definitions=WORKLOADS, state="absent")
    run("daemon_access", state="absent")
    run("remote_access", state="absent")
    run("manifests", files=crds, state="absent")


def test_who_may_make_roles_and_what_preflight_asks_for_needs_nothing_more(modules, rome, crds):
    auth = {"kubeconfig": str(rome.client(USER, GROUPS))}
    wanted = _rights.needed()
    grant(rome, wanted, ("default", SYSTEM))
    for line, role in zip(denied(modules, auth, 5), _rights.roles(), strict=True):
        assert line.startswith(f"{_rights.shown(_rights.making(role))} (or itself ")
    refused = modules.run("remote_access", auth)
    assert "is attempting to grant RBAC permissions not currently held" in refused["msg"]
    before = len(forbidden(rome))
    grant(rome, [*wanted, *(right for role in _rights.roles() for right in _rights.making(role))], ("default", SYSTEM))
    assert denied(modules, auth, 0) == []
    mesh_and_leave(modules, auth, crds, token_type="secret", peer={}, workloads=False)
    assert forbidden(rome)[before:] == []
    there = {Right(verb, "", "namespaces") for verb in ("create", "patch")}  # and so it is not made
    assert used(rome) == set(wanted) - NOT_USED - there


def test_who_holds_what_the_roles_grant_can_mesh_a_cluster_of_calico_with_workloads_and_pools(modules, rome, crds):
    definitions = [d for d in yaml.safe_load_all(calico.objects()) if d and d["kind"] == "CustomResourceDefinition"]
    apply(rome, *(d for d in definitions if d["spec"]["names"]["kind"] in ("IPPool", "FelixConfiguration")))
    auth = {"kubeconfig": str(rome.client(USER, GROUPS))}
    wanted = _rights.needed("kubernetes", "request", "crd.projectcalico.org/v1", has_pools=True)
    grant(rome, [*wanted, *(right for role in _rights.roles() for right in _rights.granted(role))], ())
    case = {**auth, "daemon_mode": "kubernetes", "token_type": "request", "pools": True}
    assert denied(modules, case, 0) == []
    peer = {"overlay": "Disabled", "pod_cidrs": ["10.2.0.0/16"]}
    mesh_and_leave(modules, auth, crds, token_type="request", peer=peer, workloads=True)
    assert forbidden(rome) == []
    assert used(rome) == set(wanted) - NOT_USED
