"""S4 of the fault catalogue: whatever a run of the playbook says, and however it fails, no secret is in it."""

from __future__ import annotations

import base64

import pytest
import yaml

from tests.integration_modules.playbooks import Playbooks
from tests.integration_modules.runner import admin_token, kubectl, stored

pytestmark = [pytest.mark.lab, pytest.mark.timeout(420)]


def keys(plane) -> set[str]:
    """The key of an administrator's kubeconfig, as the file has it and line by line."""
    encoded = yaml.safe_load(plane.kubeconfig.read_text())["users"][0]["user"]["client-key-data"]
    lines = base64.b64decode(encoded).decode().splitlines()
    return {encoded, *(line for line in lines if len(line) >= 40)}


def test_no_token_key_or_kubeconfig_is_in_anything_that_a_run_leaves(tmp_path, paris, oslo):
    plays, admin = Playbooks(tmp_path), admin_token(paris)
    by_token = {"mesh_api_server": paris.url, "mesh_api_token": admin, "mesh_ca_file": str(paris.ca)}
    plays.hosts(paris=by_token, oslo={"mesh_kubeconfig": str(oslo.kubeconfig)})
    said = {}
    # no daemon will ever report, so that validation fails
    code, said["run"] = plays.run("mesh", {"mesh_wait": 1}, "-vvv", "--diff")
    assert code != 0
    assert "not ready after 1" in said["run"]
    secrets = {admin, admin.rpartition(".")[2]} | stored(paris) | stored(oslo) | keys(oslo)
    assert len(secrets) > 20
    assert "sha256:" in said["run"]  # Secrets were shown, as digests

    # a Secret of somebody else is in the way, and a token that is none is refused
    for plane, peer in ((paris, "oslo"), (oslo, "paris")):
        secret = f"mesh-access-{peer}"
        kubectl(plane, "-n", "clustermesh-system", "label", "secret", secret, "app.kubernetes.io/managed-by-")
    refused = "eyJcanary.of-a-token-that.is-refused-by-rome"
    plays.hosts(
        paris=by_token,
        oslo={"mesh_kubeconfig": str(oslo.kubeconfig)},
        rome={**by_token, "mesh_api_token": refused},
    )
    code, said["failures"] = plays.run(
        "mesh", {"mesh_wait": 1}, "-vvv", "--diff", "--check", callback="ansible.posix.json"
    )
    assert code != 0
    assert "Unauthorized" in said["failures"]
    code, said["conflict"] = plays.run("mesh", {"mesh_wait": 1}, "-vvvv", "--diff", "--limit", "paris,oslo")
    assert code != 0
    assert "in the way and not made by clustermesh" in said["conflict"]

    given = {plays.inventory, plays.directory / "variables.json"}
    files = [f for f in plays.directory.rglob("*") if f.is_file() and f not in given and "collections" not in f.parts]
    assert plays.log in files
    said |= {str(file): file.read_text(errors="replace") for file in files}
    leaks = [(where, secret[:12]) for where, text in said.items() for secret in {*secrets, refused} if secret in text]
    assert leaks == []
