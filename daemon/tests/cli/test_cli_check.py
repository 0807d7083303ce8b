"""``clustermesh check``: each step of troubleshooting finds what it is there for, and says what to do."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_schemas import REPORT
from cli_world import (
    READER,
    Done,
    access_secret,
    apply,
    clustermesh,
    configuration,
    eventually,
    kubectl,
    mesh_node,
    node,
    thing,
)
from clustermesh_lab import ControlPlane
from clustermeshd.cli import reviews
from clustermeshd.model import names
from jsonschema import validate

ROOT = Path(__file__).parents[3]
RBAC = "rbac.authorization.k8s.io"
STEPS = ["access Secret", "kubeconfig", "credential", "API server", "rights", "cluster", "nodes", "pod prefixes"]


def lines(done: Done, scope: str) -> dict[str, tuple[str, str, str]]:
    """Result, message and fix by the check's name."""
    validate(done.json, REPORT)
    return {c["check"]: (c["result"], c["message"], c["fix"]) for c in done.json["checks"] if c["scope"] == scope}


@pytest.fixture
def peer(east: ControlPlane) -> Iterator[Callable[..., dict[str, tuple[str, str, str]]]]:
    """Checks a peer ``bad`` whose access Secret holds a kubeconfig; both are gone after the test."""

    def check(kubeconfig: str | None, *argv: str, **secret: str) -> dict[str, tuple[str, str, str]]:
        if kubeconfig is not None:
            apply(east, access_secret("bad", kubeconfig, **secret))
        apply(east, configuration("bad", "bad"))
        done = clustermesh(east.kubeconfig, "check", "bad", "-o", "json", "--timeout", "2", *argv)
        assert {c["scope"] for c in done.json["checks"]} <= {"local", "node e1", "peer bad"}
        assert done.status == (0 if done.json["well"] else 1)
        return lines(done, "peer bad")

    yield check
    kubectl(east, "delete", "remoteclusterconfiguration/bad", "--ignore-not-found")
    kubectl(east, "delete", "secret/bad", "-n", names.NAMESPACE, "--ignore-not-found")


def edited(kubeconfig: str, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> str:
    document = yaml.safe_load(kubeconfig)
    change(document["clusters"][0]["cluster"], document["users"][0]["user"])
    return yaml.safe_dump(document)


def test_a_mesh_that_is_well_passes_every_step(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "check", "-o", "json")
    assert (done.status, done.json["summary"]["fail"]) == (0, 0), done.out
    west = lines(done, "peer west")
    assert {name for name, (result, _, _) in west.items() if result == "ok"} == {
        *STEPS,
        "controller",
        "addresses",
        "overlay",
        "node names",
    }
    # neither is a fault, and neither can be known from here
    assert {name for name, (result, _, _) in west.items() if result == "warn"} == {
        "controller's right",
        "other direction",
    }
    assert {name: result for name, (result, _, _) in lines(done, "local").items()} == {
        "API server": "ok",
        "peers": "ok",
        "controller": "ok",
    }
    assert lines(done, "node e1")["agent"][0] == "ok"
    table = clustermesh(east.kubeconfig, "check").out.splitlines()
    assert len(table) == len(done.json["checks"]) + 2


def token_of_yesterday() -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, {"exp": 1_700_000_000})]
    return ".".join([*(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts), "c2ln"])


@pytest.mark.parametrize(
    ("change", "step", "words"),
    [
        (lambda c, u: u.update({"exec": {"command": "sh"}}), "kubeconfig", "users[].user.exec would run a program"),
        (lambda c, u: c.update({"insecure-skip-tls-verify": True}), "kubeconfig", "would trust any server"),
        (lambda c, u: c.update({"server": "http://127.0.0.1:1"}), "kubeconfig", "is not https://"),
        (lambda c, u: c.update({"server": "https://127.0.0.1:1"}), "API server", "Connect call failed"),
        (lambda c, u: c.update({"tls-server-name": "other.example"}), "API server", "TLS: "),
        (lambda c, u: (u.clear(), u.update({"token": "made-up"})), "API server", "HTTP 401"),
    ],
    ids=["exec", "insecure", "http", "nobody listens", "wrong name", "unknown token"],
)
def test_a_step_that_fails_is_named_and_those_after_it_are_said_to_be_left_out(
    peer, peer_kubeconfig: str, change: Any, step: str, words: str
):
    told = peer(edited(peer_kubeconfig, change))
    result, message, fix = told[step]
    assert (result, bool(fix)) == ("FAIL", True)
    assert words in message
    after = STEPS[STEPS.index(step) + 1 :]
    assert told["rest"][1].endswith(", ".join(after))
    assert not set(after) & set(told)


def test_a_foreign_authority_is_not_trusted(peer, east: ControlPlane, peer_kubeconfig: str):
    foreign = base64.b64encode(east.ca.read_bytes()).decode()
    told = peer(edited(peer_kubeconfig, lambda c, u: c.update({"certificate-authority-data": foreign})))
    assert told["API server"][0] == "FAIL"
    assert "TLS: " in told["API server"][1]


def test_a_missing_secret_and_a_foreign_datastore_are_told(peer, peer_kubeconfig: str):
    assert peer(None)["access Secret"][:2] == (
        "FAIL",
        f"Secret {names.NAMESPACE}/bad: there is no such Secret",
    )
    assert "datastoreType is 'etcdv3'" in peer(peer_kubeconfig, datastoreType="etcdv3")["access Secret"][1]


def test_an_ended_credential_is_told_by_its_date_before_the_server_refuses_it(peer, peer_kubeconfig: str):
    told = peer(edited(peer_kubeconfig, lambda c, u: (u.clear(), u.update({"token": token_of_yesterday()}))))
    assert told["credential"][:2] == ("FAIL", "it ended at 2023-11-14T22:13:20Z")
    assert told["API server"][0] == "FAIL"


def test_missing_rights_are_named_one_by_one(peer, remote_api: ControlPlane):
    role = thing("ClusterRole", "partial", None, f"{RBAC}/v1")
    rules = [
        {"apiGroups": [""], "resources": ["nodes", "namespaces", "services"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "watch"]},
    ]
    binding = thing("ClusterRoleBinding", "partial", None, f"{RBAC}/v1")
    binding["roleRef"] = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "partial"}
    binding["subjects"] = [{"kind": "User", "name": "partial", "apiGroup": RBAC}]
    apply(remote_api, {**role, "rules": rules}, binding)
    told = peer(remote_api.client("partial").read_text())
    result, message, fix = told["rights"]
    assert (result, message) == ("FAIL", "the credential may not list endpointslices.discovery.k8s.io")
    assert "mesh_access" in fix
    assert told["rights for eval"][0] == "warn"
    assert "list pods" in told["rights for eval"][1]


def test_a_credential_that_may_too_much_is_warned_of(peer, remote_api: ControlPlane):
    told = peer(remote_api.kubeconfig.read_text())
    assert told["rights"][0] == "ok"
    assert told["rights beyond"][0] == "warn"
    assert "list secrets" in told["rights beyond"][1]


def test_the_same_cluster_twice_and_the_cluster_itself_are_told(peer, east: ControlPlane, peer_kubeconfig: str):
    assert peer(peer_kubeconfig)["cluster"][:2] == ("FAIL", "it is the cluster of west too")
    told = peer(east.kubeconfig.read_text())["cluster"]
    assert told[:2] == ("FAIL", "the kubeconfig leads to this very cluster")


def test_overlaps_and_shared_node_names_are_found_by_the_controllers_own_rules(
    east: ControlPlane, remote_api: ControlPlane
):
    apply(remote_api, node("e1", "10.1.0.128/25", "192.168.2.9"))
    try:
        done = clustermesh(east.kubeconfig, "check", "west", "-o", "json")
    finally:
        kubectl(remote_api, "delete", "node/e1")
    west = lines(done, "peer west")
    assert west["addresses"][:2] == (
        "FAIL",
        "OverlapsLocal: Node e1: 10.1.0.128/25 overlaps the local pod CIDR 10.1.0.0/24",
    )
    assert "renumber" in west["addresses"][2]
    assert west["node names"][0] == "warn"


def test_nodes_without_prefixes_are_told(east: ControlPlane, remote_api: ControlPlane):
    bare = node("w2", "10.2.9.0/24", "192.168.2.2")
    apply(remote_api, {**bare, "spec": {}})
    try:
        done = clustermesh(east.kubeconfig, "check", "west", "-o", "json")
    finally:
        kubectl(remote_api, "delete", "node/w2")
    result, message, _ = lines(done, "peer west")["pod prefixes"]
    assert result == "warn"
    assert message.startswith("1 nodes have no podCIDRs")


@pytest.fixture
def calico_blocks(east: ControlPlane, remote_api: ControlPlane) -> Iterator[None]:
    """West as a cluster whose addresses Calico manages: the kind, and one block of w1 that overlaps east."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    kind = {"plural": "ipamblocks", "singular": "ipamblock", "kind": "IPAMBlock"}
    spec = {"group": "crd.projectcalico.org", "scope": "Cluster", "names": kind, "versions": [version]}
    crd = "ipamblocks.crd.projectcalico.org"
    apply(remote_api, thing("CustomResourceDefinition", crd, None, "apiextensions.k8s.io/v1", spec=spec))
    kubectl(remote_api, "wait", "--for=condition=Established", f"crd/{crd}", "--timeout=30s")
    block = {"cidr": "10.1.0.64/26", "affinity": "host:w1", "allocations": [], "attributes": [], "deleted": False}
    apply(remote_api, thing("IPAMBlock", "10-1-0-64-26", None, "crd.projectcalico.org/v1", spec=block))
    yield
    kubectl(remote_api, "delete", f"crd/{crd}")
    apply(remote_api, READER)
    kubectl(east, "delete", "remoteclusterconfiguration/west")  # whose controller may have begun to read blocks
    apply(east, configuration("west", "west"))
    eventually(lambda: clustermesh(east.kubeconfig, "status").status == 0)
    eventually(lambda: "west:1/2" in clustermesh(east.kubeconfig, "services", "-A").out)


def test_where_calico_manages_addresses_its_blocks_are_what_is_read(
    east: ControlPlane, remote_api: ControlPlane, calico_blocks: None
):
    told = lines(clustermesh(east.kubeconfig, "check", "-o", "json"), "peer west")
    assert told["rights"][0] == "FAIL"
    assert "list ipamblocks.crd.projectcalico.org" in told["rights"][1]
    rule = {"apiGroups": ["crd.projectcalico.org"], "resources": ["ipamblocks"], "verbs": ["get", "list", "watch"]}
    apply(remote_api, {**READER, "rules": [*READER["rules"], rule]})
    told = lines(clustermesh(east.kubeconfig, "check", "-o", "json"), "peer west")
    assert told["pod prefixes"][:2] == ("ok", "1 blocks of Calico's IPAM")
    assert "10.1.0.64/26 overlaps the local pod CIDR 10.1.0.0/24" in told["addresses"][1]


def test_the_controllers_right_to_the_secret_is_asked_of_the_api_server(east: ControlPlane):
    account = thing("ServiceAccount", names.CONTROLLER_ACCOUNT, names.NAMESPACE)
    role = thing("Role", "reads-west", names.NAMESPACE, f"{RBAC}/v1")
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["west"], "verbs": ["get", "list", "watch"]}
    binding = thing("RoleBinding", "reads-west", names.NAMESPACE, f"{RBAC}/v1")
    binding["roleRef"] = {"apiGroup": RBAC, "kind": "Role", "name": "reads-west"}
    binding["subjects"] = [{"kind": "ServiceAccount", "name": names.CONTROLLER_ACCOUNT, "namespace": names.NAMESPACE}]
    told = []
    try:
        for documents in ([account], [{**role, "rules": [rule]}, binding]):
            apply(east, *documents)
            done = clustermesh(east.kubeconfig, "check", "west", "-o", "json")
            told.append(lines(done, "peer west")["controller's right"])
    finally:
        kubectl(east, "delete", f"serviceaccount/{names.CONTROLLER_ACCOUNT}", "-n", names.NAMESPACE)
        kubectl(
            east, "delete", "role/reads-west", "rolebinding/reads-west", "-n", names.NAMESPACE, "--ignore-not-found"
        )
    assert told[0][0] == "FAIL"
    assert f"may not get, list, watch Secret {names.NAMESPACE}/west" in told[0][1]
    assert told[1][0] == "ok"


@pytest.fixture
def meshed_west(remote_api: ControlPlane) -> Iterator[ControlPlane]:
    """West as a member of a mesh, as long as a test."""
    apply(remote_api, thing("Namespace", names.NAMESPACE))
    yield remote_api
    kubectl(remote_api, "delete", "remoteclusterconfigurations.clustermesh.io,meshnodes.clustermesh.io", "--all")


def test_the_other_direction_is_looked_at_with_the_peers_own_kubeconfig(east: ControlPlane, meshed_west: ControlPlane):
    def check() -> dict[str, tuple[str, str, str]]:
        line = ("check", "west", f"--peer-kubeconfig={meshed_west.kubeconfig}", "-o", "json")
        return lines(clustermesh(east.kubeconfig, *line), "peer west")

    told = check()["other direction"]
    assert told[0] == "FAIL"
    assert "one direction only" in told[1]
    back = configuration("east", "east", "Disabled")
    synced = {"type": "Synced", "status": "True", "reason": "InSync", "message": "", "observedGeneration": 1}
    back["status"] = {"conditions": [{**synced, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
    device = {"name": "clustermesh0", "vni": 4097, "port": 4790, "mtu": 1450}
    under = {"underlayInterface": "eth0", "underlayAddress": "192.168.2.1"}
    apply(
        meshed_west,
        access_secret("east", east.kubeconfig.read_text()),
        back,
        mesh_node("w1", devices=[{**device, **under, "port": 4791}]),
    )
    west = check()
    assert west["other direction"][:2] == ("ok", "east there leads to this cluster and is in sync")
    assert west["overlay alignment"][:2] == ("FAIL", "overlayRoutingMode is Enabled here and Disabled there")
    assert west["VXLAN alignment"][:2] == ("FAIL", "VNI/port differ: 4097/4790 here, 4097/4791 there")
    apply(meshed_west, configuration("east", "east"), mesh_node("w1", devices=[{**device, **under}]))
    west = check()
    assert {west[name][0] for name in ("overlay alignment", "VXLAN alignment")} == {"ok"}


def test_the_other_direction_is_known_to_a_credential_that_may_list_configurations(
    east: ControlPlane, meshed_west: ControlPlane
):
    def told() -> tuple[str, str]:
        done = clustermesh(east.kubeconfig, "check", "west", "-o", "json")
        return lines(done, "peer west")["other direction"][:2]

    rule = {"apiGroups": ["clustermesh.io"], "resources": ["remoteclusterconfigurations"], "verbs": ["list", "watch"]}
    apply(meshed_west, {**READER, "rules": [*READER["rules"], rule]})
    try:
        one_way = "one direction only: no RemoteClusterConfiguration there leads to this cluster"
        eventually(lambda: told() == ("FAIL", one_way))
        apply(meshed_west, configuration("somebody", "somebody"))
        assert told() == ("warn", "not known: somebody there has not reached its cluster yet")
        own_id = kubectl(east, "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
        apply(meshed_west, {**configuration("somebody", "somebody"), "status": {"clusterID": own_id}})
        assert told() == ("ok", "somebody there leads to this cluster")
    finally:
        apply(meshed_west, READER)


def test_probes_that_are_all_answered_prove_the_other_direction(east: ControlPlane):
    try:
        apply(east, mesh_node("e1", paths={"reachable": 1}))
        proven = lines(clustermesh(east.kubeconfig, "check", "-o", "json"), "peer west")["other direction"]
        apply(east, mesh_node("e1", paths={"reachable": 1, "unreachable": 1}))
        unproven = lines(clustermesh(east.kubeconfig, "check", "-o", "json"), "peer west")["other direction"]
    finally:
        apply(east, mesh_node("e1"))
    assert (proven[0], unproven[0]) == ("ok", "warn")


def test_the_rights_that_are_checked_are_those_that_ansible_grants():
    source = (ROOT / "plugins" / "module_utils" / "_access.py").read_text()
    wanted = ("_rule", "READ", "WATCH", "CALICO", "REMOTE_RULES")
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if getattr(n, "name", "") in wanted or _assigned(n) in wanted]
    found: dict[str, Any] = {}
    exec(compile(tree, "_access.py", "exec"), found)
    granted = {
        (verb, group, kind)
        for rule in found["REMOTE_RULES"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {right[:3] for right in (*reviews.NEEDED, *reviews.WANTED)} <= granted
    assert not {right[:3] for right in reviews.EXCESSIVE} & granted


def _assigned(statement: ast.stmt) -> str:
    return getattr(statement.targets[0], "id", "") if isinstance(statement, ast.Assign) else ""


def test_a_peer_that_is_not_there_is_wrong_use(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "check", "south")
    assert (done.status, done.err) == (
        2,
        "clustermesh: no RemoteClusterConfiguration south; there are: west\n",
    )


def test_a_kubeconfig_of_no_peer_is_told(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "check", f"--peer-kubeconfig={east.kubeconfig}", "-o", "json")
    result, message, _ = lines(done, "local")["peer kubeconfig"]
    assert result == "FAIL"
    assert "which none of the peers" in message
