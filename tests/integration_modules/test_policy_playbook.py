"""The playbook of policy replication between two real API servers."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.integration_modules.playbooks import Playbooks
from tests.integration_modules.runner import admin_token, audit, kubectl, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
DNS = {"podSelector": {}, "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}], "policyTypes": ["Egress"]}


def policy(name: str, **labels: str) -> dict:
    meta = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": DNS}


def test_sets_of_the_inventory_arrive_drift_is_told_and_no_token_is_printed(tmp_path, paris, oslo):
    plays, secret = Playbooks(tmp_path), admin_token(paris)
    plays.hosts(
        paris={"mesh_api_server": paris.url, "mesh_api_token": secret, "mesh_ca_file": str(paris.ca)},
        oslo={"mesh_kubeconfig": str(oslo.kubeconfig)},
    )
    kubectl(paris, "apply", "-f", "-", stdin=yaml.safe_dump_all([policy("shared", team="a"), policy("own")]))
    files = [str(tmp_path / "everywhere.yml")]
    (tmp_path / "everywhere.yml").write_text(yaml.safe_dump(policy("everywhere")))
    sets = {
        "mesh_policies": [
            {"name": "baseline", "source": "paris", "label_selector": "team=a"},
            {"name": "files", "files": files},
        ]
    }
    code, first = plays.run("policy", sets, "-vvv", "--diff")
    assert code == 0, first
    found = {name: kubectl(plane, "get", "netpol", "-o", "name").split() for name, plane in
             (("paris", paris), ("oslo", oslo))}  # fmt: skip
    prefix = "networkpolicy.networking.k8s.io/"
    assert set(found["oslo"]) == {f"{prefix}shared", f"{prefix}everywhere"}
    assert set(found["paris"]) == {f"{prefix}shared", f"{prefix}own", f"{prefix}everywhere"}
    start = len(audit(oslo))
    code, again = plays.run("policy", sets)
    assert (code, "changed=0" in again, writes(oslo, start)) == (0, True, [])
    kubectl(oslo, "patch", "netpol", "shared", "--type=json", "--field-manager=mallory", "--patch",
            json.dumps([{"op": "replace", "path": "/spec/egress/0/ports/0/port", "value": 80}]))  # fmt: skip
    report = {**sets, "mesh_policy_mode": "report", "mesh_policy_fail_on_drift": True}
    code, told = plays.run("policy", report, "-vvv")
    assert code != 0
    assert "NetworkPolicy default/shared: spec.egress[0].ports[0].port is 80, not 53; by mallory" in told
    for text in (first, again, told, plays.log.read_text()):
        assert secret not in text
