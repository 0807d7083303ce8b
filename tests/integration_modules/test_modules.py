"""The modules against real API servers: what they promise about writing, predicting and keeping secrets."""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
import urllib.error
import urllib.request

import pytest
import yaml

from tests.integration_modules.runner import admin_token, audit, kubectl, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def auth(plane) -> dict:
    return {"kubeconfig": str(plane.kubeconfig)}


def actions(answer: dict) -> dict[str, str]:
    return {f"{o['kind']}/{o['name']}": o["action"] for o in answer["objects"]}


def run_thrice(ansible, plane, module: str, options: dict) -> dict:
    """Check run, run, run: the first writes nothing and predicts the second, the third neither changes nor writes."""
    start = len(audit(plane))
    predicted = ansible.run(module, options, "--check", "--diff")
    assert writes(plane, start) == []
    real = ansible.run(module, options)
    assert predicted["changed"]
    assert real["changed"]
    assert actions(predicted) == actions(real)
    start = len(audit(plane))
    again = ansible.run(module, options)
    assert not again["changed"], again
    assert set(actions(again).values()) == {"keep"}
    assert writes(plane, start) == []
    return again


def test_manifests_write_once(ansible, paris, oslo, crds):
    for plane in (paris, oslo):
        run_thrice(ansible, plane, "manifests", {**auth(plane), "files": crds})


def test_access_then_peering_write_once(ansible, paris, oslo):
    access = run_thrice(ansible, oslo, "remote_access", auth(oslo))
    assert oslo.url in access["kubeconfig"]
    peer = {"name": "oslo", "kubeconfig": access["kubeconfig"], "admit": {"podCIDRs": ["10.2.0.0/16"]}}
    run_thrice(ansible, paris, "peering", {**auth(paris), "peers": [peer | {"labels": {"tier": "test"}}]})
    assert _labels(paris, "oslo")["tier"] == "test"
    run_thrice(ansible, paris, "peering", {**auth(paris), "peers": [peer]})
    assert "tier" not in _labels(paris, "oslo")


def _labels(plane, peer: str) -> dict:
    path = f"/apis/clustermesh.io/v1alpha1/remoteclusterconfigurations/{peer}"
    return json.loads(kubectl(plane, "get", "--raw", path))["metadata"]["labels"]


def test_a_check_run_on_a_virgin_cluster_gives_a_kubeconfig_for_later_tasks(ansible, paris):
    answer = ansible.run("daemon_access", auth(paris), "--check")
    assert answer["changed"]
    assert "not-known-in-check-mode" in answer["agent_kubeconfig"]


def test_daemon_access_writes_once(ansible, paris):
    answer = run_thrice(ansible, paris, "daemon_access", auth(paris))
    assert answer["controller_kubeconfig"] != answer["agent_kubeconfig"]


@pytest.mark.parametrize("module", ["remote_access", "daemon_access"])
def test_kubeconfigs_name_the_address_and_certificates_that_others_are_to_use(ansible, paris, oslo, tmp_path, module):
    file = tmp_path / "ca.pem"
    file.write_text(oslo.ca.read_text())
    there = {"server": "https://lb.example:443", "server_ca_cert": str(file), "tls_server_name": "kubernetes"}
    answer = ansible.run(module, {**auth(paris), **there})
    texts = [answer[key] for key in ("kubeconfig", "agent_kubeconfig", "controller_kubeconfig") if key in answer]
    assert len(texts) == {"remote_access": 1, "daemon_access": 2}[module]
    for text in texts:
        assert yaml.safe_load(text)["clusters"][0]["cluster"] == {
            "server": there["server"],
            "certificate-authority-data": base64.b64encode(oslo.ca.read_bytes()).decode(),
            "tls-server-name": "kubernetes",
        }
    file.write_text("-----BEGIN NOTHING-----")
    broken = ansible.run(module, {**auth(paris), **there})
    assert broken["msg"] == f"server_ca_cert is {file}, which holds no certificates (PEM)"


def test_accounts_of_pods_have_no_long_lived_token(ansible, oslo):
    ansible.run("daemon_access", auth(oslo))
    answer = run_thrice(ansible, oslo, "daemon_access", {**auth(oslo), "tokens": False})
    assert "agent_kubeconfig" not in answer
    stored = kubectl(oslo, "get", "secrets", "-n", "clustermesh-system", "-o", "name").split()
    assert {"secret/clustermesh-agent-token", "secret/clustermesh-controller-token"}.isdisjoint(stored)


def test_a_requested_token_is_issued_once_and_renewed_near_its_end(ansible, rome):
    options = {**auth(rome), "token_type": "request", "expiration": 7200, "renew_before": 3600}
    answer = run_thrice(ansible, rome, "remote_access", options)
    assert (answer["renewed"], answer["expires_at"] > "2026") == ("", True)
    start = len(audit(rome))
    predicted = ansible.run("remote_access", {**options, "expiration": 9000, "renew_before": 8000}, "--check")
    assert writes(rome, start) == []
    again = ansible.run("remote_access", {**options, "expiration": 9000, "renew_before": 8000})
    assert (again["renewed"], actions(again)) == ("expiring", actions(predicted))
    assert again["kubeconfig"] != answer["kubeconfig"]
    assert again["expires_at"] > answer["expires_at"]
    assert "Secret/clustermesh-remote-token" not in actions(again)
    gone = ansible.run("remote_access", {**auth(rome), "state": "absent"})
    assert actions(gone)["Secret/clustermesh-remote-issued"] == "delete"


def test_rotation_keeps_the_old_token_until_it_is_retired_and_goes_on_after_an_interruption(ansible, rome):
    def token(kubeconfig: str) -> str:
        return json.loads(re.search(r"token: (.*)", kubeconfig).group(1))

    def is_accepted(kubeconfig: str) -> bool:
        request = urllib.request.Request(
            f"{rome.url}/api/v1/nodes", headers={"Authorization": f"Bearer {token(kubeconfig)}"}
        )
        try:
            with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(rome.ca))) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as refused:
            return refused.code != 401

    old = ansible.run("remote_access", auth(rome))["kubeconfig"]
    predicted = ansible.run("remote_access", {**auth(rome), "rotation": "issue"}, "--check")
    issued = ansible.run("remote_access", {**auth(rome), "rotation": "issue"})
    assert actions(issued) == actions(predicted)
    assert actions(issued)["Secret/clustermesh-remote-token-2"] == "create"
    again = ansible.run("remote_access", {**auth(rome), "rotation": "issue"})
    assert (again["changed"], again["kubeconfig"]) == (False, issued["kubeconfig"])
    assert issued["kubeconfig"] != old
    assert is_accepted(old)
    retired = ansible.run("remote_access", {**auth(rome), "rotation": "retire"})
    assert {name for name, action in actions(retired).items() if action == "delete"} == {
        "Secret/clustermesh-remote-token"
    }
    deadline = time.monotonic() + 30  # the API server caches what it authenticated for some seconds
    while is_accepted(old):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert is_accepted(issued["kubeconfig"])
    plain = ansible.run("remote_access", auth(rome))
    assert (plain["changed"], plain["credential"]) == (False, issued["credential"])


def test_peering_prints_no_token(ansible, paris, oslo):
    access = ansible.run("remote_access", auth(oslo))["kubeconfig"]
    token = json.loads(re.search(r"token: (.*)", access).group(1))
    changed = access.replace("current-context: clustermesh", "current-context: clustermesh ")
    peers = [{"name": "oslo", "kubeconfig": changed}, {"name": "rome", "kubeconfig": access}]
    text = ansible.output("peering", {**auth(paris), "peers": peers}, "-vvv", "--diff")
    assert "sha256:" in text
    assert "CHANGED" in text
    for secret in (token, base64.b64encode(access.encode()).decode(), base64.b64encode(changed.encode()).decode()):
        assert secret not in text


def test_peering_prunes_its_own_and_keeps_peers_outside_of_the_run(ansible, paris):
    foreign = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs", "namespace": "clustermesh-system"}}
    answer = ansible.run("peering", {**auth(paris), "peers": [{"name": "oslo"}]})
    assert {"name": "oslo", "action": "kept"} in answer["peers"]
    assert {"name": "rome", "action": "pruned"} in answer["peers"]
    assert actions(answer)["Secret/mesh-access-rome"] == "delete"
    assert actions(answer)["Role/remote-cluster-secret-access"] == "update"
    assert foreign["metadata"]["name"] not in str(answer)


def test_preflight_finds_overlap_and_twins(ansible, paris, oslo):
    first = ansible.run("preflight_info", {**auth(paris), "name": "paris", "pod_cidrs": ["10.1.0.0/16"]})
    assert [f["id"] for f in first["findings"]] == []
    others = [first["facts"]]
    same = ansible.run("preflight_info", {**auth(paris), "name": "copy", "others": others})
    assert "cluster-id" in [f["id"] for f in same["findings"]]
    both = ansible.run(
        "preflight_info", {**auth(oslo), "name": "oslo", "pod_cidrs": ["10.1.128.0/24"], "others": others}
    )
    assert [f["id"] for f in both["findings"]] == ["cidr-overlap"]
    assert both["findings"][0]["hint"]


def test_a_server_that_peers_cannot_verify_is_a_finding(ansible, rome):
    options = {"host": rome.url, "api_key": admin_token(rome), "validate_certs": False, "name": "rome"}
    options["pod_cidrs"] = ["10.3.0.0/16"]
    (finding,) = ansible.run("preflight_info", options)["findings"]
    assert (finding["id"], "mesh_ca_file_for_peers" in finding["hint"]) == ("authority", True)
    assert ansible.run("preflight_info", {**options, "vouched": True})["findings"] == []


def test_an_unreachable_cluster_is_a_finding(ansible):
    options = {"host": "https://127.0.0.1:1", "api_key": "nothing", "name": "gone"}
    (finding,) = ansible.run("preflight_info", options)["findings"]
    assert finding["id"] == "reachable"


def test_access_is_taken_away(ansible, oslo):
    answer = ansible.run("remote_access", {**auth(oslo), "state": "absent"})
    assert {name for name, action in actions(answer).items() if action != "delete"} == {
        "Secret/clustermesh-remote-issued"
    }
    again = ansible.run("remote_access", {**auth(oslo), "state": "absent"})
    assert not again["changed"]
