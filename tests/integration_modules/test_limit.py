"""Runs with --limit: a cluster joins others that are not part of the run, whatever state these are in."""

from __future__ import annotations

import base64
import json

import pytest
import yaml
from clustermesh_lab import ControlPlane

from tests.integration_modules.playbooks import Playbooks
from tests.integration_modules.runner import admin_token, audit, kubectl, stored, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
PARTS = ("--tags", "preflight,access,peering", "--limit", "rome")


def by_token(plane: ControlPlane, pods: str) -> dict:
    found = {"mesh_api_server": plane.url, "mesh_api_token": admin_token(plane), "mesh_ca_file": str(plane.ca)}
    return {**found, "mesh_pod_cidrs": [pods]}


@pytest.fixture
def inventory(paris, oslo, rome) -> dict:
    planes = {"paris": paris, "oslo": oslo, "rome": rome}
    return {name: by_token(plane, f"10.{n}.0.0/16") for n, (name, plane) in enumerate(planes.items(), 1)}


def peers(plane: ControlPlane) -> list[str]:
    found = json.loads(kubectl(plane, "get", "remoteclusterconfigurations.clustermesh.io", "-o", "json"))["items"]
    return [item["metadata"]["name"] for item in found]


def modes(plane: ControlPlane) -> dict[str, str]:
    found = json.loads(kubectl(plane, "get", "remoteclusterconfigurations.clustermesh.io", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item["spec"]["syncOptions"]["overlayRoutingMode"] for item in found}


def authority_for(plane: ControlPlane, peer: str) -> str:
    """The certificates by which a cluster knows the API server of a peer."""
    reference = json.loads(kubectl(plane, "get", f"remoteclusterconfiguration.clustermesh.io/{peer}", "-o", "json"))
    where = reference["spec"]["clusterAccessSecret"]
    secret = json.loads(kubectl(plane, "get", "secret", where["name"], "-n", where["namespace"], "-o", "json"))
    kubeconfig = yaml.safe_load(base64.b64decode(secret["data"]["kubeconfig"]))
    return base64.b64decode(kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"]).decode()


def test_a_cluster_joins_those_that_answer_and_says_nobodys_secret(tmp_path, inventory, paris, oslo, rome):
    plays = Playbooks(tmp_path)
    overlapping = {**inventory["rome"], "mesh_pod_cidrs": ["10.1.4.0/24"]}
    plays.hosts(**{**inventory, "rome": overlapping})
    starts = [len(audit(plane)) for plane in (paris, oslo, rome)]
    code, said = plays.run("mesh", {}, *PARTS)
    assert (code, "pods of paris (10.1.0.0/16) overlap pods of rome (10.1.4.0/24)" in said) == (2, True), said
    assert [writes(plane, start) for plane, start in zip((paris, oslo, rome), starts, strict=True)] == [[], [], []]

    plays.hosts(**inventory)
    code, output = plays.run("mesh", {}, "--tags", "access,peering", "--limit", "paris,oslo")
    assert (code, "rome is left out: it is not part of a mesh yet" in output) == (0, True), output
    assert (peers(paris), peers(oslo)) == (["oslo"], ["paris"])
    assert writes(rome, starts[2]) == []
    gone = {**inventory["oslo"], "mesh_api_server": "https://127.0.0.1:1"}
    plays.hosts(**{**inventory, "oslo": gone})
    said = {}
    code, said["run"] = plays.run("mesh", {}, *PARTS, "-v", "--diff")
    assert code == 0, said["run"]
    assert "oslo is not compared" in said["run"]
    assert "oslo is left out" in said["run"]
    assert (peers(rome), peers(paris), peers(oslo)) == (["paris"], ["oslo", "rome"], ["paris"])

    bundle = tmp_path / "both.pem"
    bundle.write_text(oslo.ca.read_text() + paris.ca.read_text())
    plays.hosts(**{**inventory, "oslo": {**inventory["oslo"], "mesh_ca_file_for_peers": str(bundle)}})
    code, said["json"] = plays.run("mesh", {}, *PARTS, "-v", callback="ansible.posix.json")
    assert code == 0, said["json"]
    assert (peers(rome), peers(paris), peers(oslo)) == (["oslo", "paris"], ["oslo", "rome"], ["paris", "rome"])
    assert (authority_for(rome, "oslo"), authority_for(rome, "paris")) == (bundle.read_text(), paris.ca.read_text())
    plays.hosts(**{**inventory, "oslo": gone})
    code, said["switch"] = plays.run("switch_overlay", {"mesh_overlay": "Disabled", "mesh_wait": 1}, "-v")
    assert (code, "rome and these stay as they are" in said["switch"]) == (2, True), said["switch"]  # oslo failed
    assert (modes(paris), modes(rome)) == (
        {"oslo": "Enabled", "rome": "Disabled"},
        {"oslo": "Enabled", "paris": "Disabled"},
    )
    assert modes(oslo) == {"paris": "Enabled", "rome": "Enabled"}

    secrets = {host["mesh_api_token"] for host in inventory.values()}.union(*map(stored, (paris, oslo, rome)))
    assert len(secrets) > 10
    said["log"] = plays.log.read_text()
    assert [(where, secret[:12]) for where, text in said.items() for secret in secrets if secret in text] == []
