"""What somebody else made under a name of ours stays theirs, unless we are told otherwise."""

from __future__ import annotations

import json

import pytest

from tests.integration_modules.direct import Direct
from tests.integration_modules.playbooks import Playbooks
from tests.integration_modules.runner import apply, audit, kubectl, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

SYSTEM = "clustermesh-system"
RBAC = "rbac.authorization.k8s.io"
LABELS = {"team": "theirs"}


def there(kind: str, name: str, version: str = "v1", **content) -> dict:
    place = {} if kind.startswith(("Cluster", "Custom")) else {"namespace": SYSTEM}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": LABELS, **place}, **content}


def role(kind: str, name: str) -> dict:
    return there(kind, name, f"{RBAC}/v1", rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])


def binding(kind: str, name: str) -> dict:
    reference = {"apiGroup": RBAC, "kind": kind.removesuffix("Binding"), "name": name}
    return there(kind, name, f"{RBAC}/v1", roleRef=reference, subjects=[])


def secret(name: str) -> dict:
    return there("Secret", name, type="Opaque", stringData={"token": "theirs"})


def workload(kind: str) -> dict:
    labels = {"app": "theirs"}
    container = {"name": "theirs", "image": "theirs:1"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return there(kind, f"clustermesh-{kind.lower()}", "apps/v1", spec=spec)


def definition(group: str, **labels: str) -> dict:
    names = {"kind": "Probe", "plural": "probes", "singular": "probe", "listKind": "ProbeList"}
    schema = {"openAPIV3Schema": {"type": "object"}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    spec = {"group": group, "scope": "Cluster", "names": names, "versions": [version]}
    # the API server wants a reason for what carries a name of its own project
    note = {"api-approved.kubernetes.io": "unapproved, a test"}
    made = there("CustomResourceDefinition", f"probes.{group}", "apiextensions.k8s.io/v1", spec=spec)
    made["metadata"] |= {"labels": LABELS | labels, "annotations": note}
    return made


@pytest.fixture(scope="module")
def direct(tmp_path_factory) -> Direct:
    return Direct(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def place(paris):
    """Our namespace, made by hand."""
    apply(paris, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
    return paris


def read(plane, item: dict) -> dict:
    found = json.loads(kubectl(plane, "get", f"{item['kind']}/{item['metadata']['name']}", "-n", SYSTEM, "-o", "json"))
    found["metadata"].pop("managedFields", None)
    return found


def remove(plane, *items: dict) -> None:
    for item in items:
        kubectl(plane, "delete", f"{item['kind']}/{item['metadata']['name']}", "-n", SYSTEM, "--ignore-not-found")


REQUESTED = {"token_type": "request"}
AGENT, CONTROLLER, REMOTE = "clustermesh-agent", "clustermesh-controller", "clustermesh-remote"
LEASE = f"{CONTROLLER}-lease"
OF_PEERS = [
    there("ServiceAccount", REMOTE),
    role("ClusterRole", REMOTE),
    binding("ClusterRoleBinding", REMOTE),
    secret(f"{REMOTE}-token"),
]
OF_DAEMONS = [
    *(there("ServiceAccount", name) for name in (CONTROLLER, AGENT)),
    *(role("ClusterRole", name) for name in (CONTROLLER, AGENT)),
    *(binding("ClusterRoleBinding", name) for name in (CONTROLLER, AGENT)),
    role("Role", LEASE),
    binding("RoleBinding", LEASE),
    *(secret(f"{name}-token") for name in (CONTROLLER, AGENT)),
]
WORKLOADS = [workload("DaemonSet"), workload("Deployment")]
CALICOS = [definition("projectcalico.org")]


def full_name(item: dict) -> str:
    meta = item["metadata"]
    return f"{item['kind']} " + (f"{SYSTEM}/{meta['name']}" if meta.get("namespace") else meta["name"])


@pytest.mark.parametrize(
    ("module", "options", "theirs"),
    [
        pytest.param("remote_access", {}, OF_PEERS, id="account of peers"),
        pytest.param("remote_access", REQUESTED, [secret(f"{REMOTE}-issued")], id="requested token"),
        pytest.param("daemon_access", {}, OF_DAEMONS, id="accounts of daemons"),
        pytest.param("daemon_access", {"tokens": False}, OF_DAEMONS[:-2], id="accounts of pods"),
        pytest.param("manifests", {"definitions": WORKLOADS}, WORKLOADS, id="workloads"),
        pytest.param("manifests", {"definitions": CALICOS}, CALICOS, id="Calico's definition"),
    ],
)
def test_objects_of_somebody_else_are_named_and_nothing_is_written_or_removed(direct, place, module, options, theirs):
    apply(place, *theirs)
    before, start = [read(place, item) for item in theirs], len(audit(place))
    options = {"kubeconfig": str(place.kubeconfig), **options}
    names = sorted(map(full_name, theirs))
    for check in (True, False):
        answer = direct.run(module, options, check=check)
        assert answer.get("failed"), answer
        assert answer["conflicts"] == names
        assert f"{', '.join(names)}; remove them, or set adopt: true (variable mesh_" in answer["msg"]
    assert writes(place, start) == []
    gone = direct.run(module, {**options, "state": "absent"})
    assert not gone.get("failed"), gone
    assert [read(place, item) for item in theirs] == before
    remove(place, *theirs)


@pytest.mark.parametrize("module", ["remote_access", "daemon_access"])
def test_told_so_it_takes_over_and_leaves_nothing_behind_afterwards(direct, place, module):
    account = {"remote_access": REMOTE, "daemon_access": AGENT}[module]
    theirs = [
        there("ServiceAccount", account),
        role("ClusterRole", account),
        binding("ClusterRoleBinding", account),
    ]
    apply(place, *theirs)
    options = {"kubeconfig": str(place.kubeconfig)}
    told = direct.run(module, {**options, "adopt": True})
    assert {o["action"] for o in told["objects"] if o["name"] == account} == {"update"}
    assert not direct.run(module, options)["changed"]
    direct.run(module, {**options, "state": "absent"})
    assert kubectl(place, "get", "serviceaccounts,roles,rolebindings", "-n", SYSTEM, "-o", "name").split() == [
        "serviceaccount/default"
    ]


def test_a_workload_is_taken_over_when_told(direct, place):
    wanted = workload("DaemonSet")
    apply(place, wanted)
    options = {"kubeconfig": str(place.kubeconfig), "definitions": [wanted]}
    assert direct.run("manifests", {**options, "adopt": True})["objects"][0]["action"] == "update"
    assert direct.run("manifests", {**options, "state": "absent"})["objects"][0]["action"] == "delete"


def test_definitions_that_somebody_applied_from_our_files_are_ours(direct, place, crds):
    kubectl(place, "apply", "-f", crds[0])
    answer = direct.run("manifests", {"kubeconfig": str(place.kubeconfig), "files": crds[:1]})
    assert [o["action"] for o in answer["objects"]] == ["update"]
    by_hand = definition("projectcalico.org", **{"app.kubernetes.io/part-of": "clustermesh"})
    apply(place, by_hand)
    options = {"kubeconfig": str(place.kubeconfig), "definitions": [by_hand]}
    assert [o["action"] for o in direct.run("manifests", options)["objects"]] == ["update"]
    remove(place, by_hand)


def test_a_namespace_made_by_hand_is_used_and_stays_as_it_is(direct, place, crds):
    namespace = {"kind": "Namespace", "metadata": {"name": SYSTEM}}
    before, auth = read(place, namespace), {"kubeconfig": str(place.kubeconfig)}
    direct.run("manifests", {**auth, "files": crds})
    answers = [
        direct.run("remote_access", auth),
        direct.run("daemon_access", auth),
        direct.run("peering", {**auth, "peers": [{"name": "oslo", "kubeconfig": "a kubeconfig"}]}),
        direct.run("remote_access", {**auth, "state": "absent"}),
        direct.run("daemon_access", {**auth, "state": "absent"}),
    ]
    assert [answer.get("failed") for answer in answers] == [None] * 5
    assert read(place, namespace) == before


def test_the_roles_say_what_to_set(place, tmp_path):
    plays = Playbooks(tmp_path)
    plays.hosts(paris={"mesh_kubeconfig": str(place.kubeconfig)})
    calicos = definition("projectcalico.org")
    calicos["metadata"]["name"] = "remoteclusterconfigurations.projectcalico.org"
    kind = "RemoteClusterConfiguration"
    calicos["spec"]["names"] = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower()}
    theirs = role("ClusterRole", REMOTE)
    apply(place, calicos, theirs)
    before = read(place, calicos)["spec"]

    def run(variables: dict) -> tuple[int, str]:
        code, text = plays.run("mesh", variables, "--tags", "access")
        return code, " ".join(text.split())

    code, text = run({"mesh_crds_calico_api": True})
    name = calicos["metadata"]["name"]
    assert f"paris: CustomResourceDefinition {name} was not made by clustermesh and stays as it is; set" in text
    assert code == 2
    code, text = run({})
    assert "ClusterRole clustermesh-remote; remove them, or set adopt: true (variable mesh_access_adopt)" in text
    assert code == 2
    assert run({"mesh_access_adopt": True})[0] == 0
    assert run({})[0] == 0
    assert read(place, calicos)["spec"] == before
    remove(place, calicos, theirs)
