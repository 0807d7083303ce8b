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
IN_THE_WAY = [
    ("remote_access", {}, there("ServiceAccount", "clustermesh-remote")),
    ("remote_access", {}, role("ClusterRole", "clustermesh-remote")),
    ("remote_access", {}, binding("ClusterRoleBinding", "clustermesh-remote")),
    ("remote_access", {}, secret("clustermesh-remote-token")),
    ("remote_access", REQUESTED, secret("clustermesh-remote-issued")),
    ("daemon_access", {}, there("ServiceAccount", "clustermesh-agent")),
    ("daemon_access", {}, role("ClusterRole", "clustermesh-controller")),
    ("daemon_access", {}, binding("ClusterRoleBinding", "clustermesh-agent")),
    ("daemon_access", {}, role("Role", "clustermesh-controller-lease")),
    ("daemon_access", {}, binding("RoleBinding", "clustermesh-controller-lease")),
    ("daemon_access", {}, secret("clustermesh-agent-token")),
    ("daemon_access", {"tokens": False}, there("ServiceAccount", "clustermesh-controller")),
    *(("manifests", {"definitions": [workload(kind)]}, workload(kind)) for kind in ("DaemonSet", "Deployment")),
    ("manifests", {"definitions": [definition("projectcalico.org")]}, definition("projectcalico.org")),
]
NAMES = [f"{module}-{theirs['kind']}-{theirs['metadata']['name']}" for module, _, theirs in IN_THE_WAY]


@pytest.mark.parametrize(("module", "options", "theirs"), IN_THE_WAY, ids=NAMES)
def test_an_object_of_somebody_else_is_named_and_nothing_is_written_or_removed(direct, place, module, options, theirs):
    apply(place, theirs)
    before, start = read(place, theirs), len(audit(place))
    options = {"kubeconfig": str(place.kubeconfig), **options}
    name = theirs["metadata"]["name"]
    for check in (True, False):
        answer = direct.run(module, options, check=check)
        assert answer.get("failed"), answer
        assert [line.rpartition("/")[2].rpartition(" ")[2] for line in answer["conflicts"]] == [name]
        assert f"{name}; remove them, or set adopt: true (variable mesh_" in answer["msg"]
    assert writes(place, start) == []
    gone = direct.run(module, {**options, "state": "absent"})
    assert not gone.get("failed"), gone
    assert read(place, theirs) == before
    remove(place, theirs)


@pytest.mark.parametrize("module", ["remote_access", "daemon_access"])
def test_told_so_it_takes_over_and_leaves_nothing_behind_afterwards(direct, place, module):
    account = {"remote_access": "clustermesh-remote", "daemon_access": "clustermesh-agent"}[module]
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
    theirs = role("ClusterRole", "clustermesh-remote")
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
