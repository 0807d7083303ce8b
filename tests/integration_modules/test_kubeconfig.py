"""The kubeconfig that remote_access hands out: in a file, and with the server and the name that it was told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from clustermesh_lab.build import program
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Untrusted

from tests.integration_modules.direct import Direct
from tests.integration_modules.playbooks import Playbooks
from tests.integration_modules.runner import audit, writes
from tests.integration_modules.test_modules import auth

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def direct(tmp_path_factory) -> Direct:
    return Direct(tmp_path_factory.mktemp("collections"))


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def token(kubeconfig: str) -> str:
    return yaml.safe_load(kubeconfig)["users"][0]["user"]["token"]


def test_the_file_is_written_when_it_says_something_else_and_goes_with_the_account(direct, paris, tmp_path):
    file = tmp_path / "paris.kubeconfig"
    options = {**auth(paris), "kubeconfig_file": str(file)}
    assert direct.run("remote_access", options, check=True)["diff"][-1]["after_header"] == str(file)
    assert not file.exists()
    made = direct.run("remote_access", options)
    assert (file.read_text(), mode(file)) == (made["kubeconfig"], 0o600)
    assert token(made["kubeconfig"]) not in json.dumps(made["diff"])
    start = len(audit(paris))
    assert not direct.run("remote_access", options)["changed"]
    assert writes(paris, start) == []

    file.chmod(0o644)
    for check in (True, False):
        answer = direct.run("remote_access", options, check=check)
        assert answer["changed"]
        assert [(d["before"]["mode"], d["after"]["mode"]) for d in answer["diff"]] == [("0644", "0600")]
    assert mode(file) == 0o600
    file.write_text(json.dumps(yaml.safe_load(made["kubeconfig"])))
    assert not direct.run("remote_access", options)["changed"]
    moved = {**options, "server": f"https://localhost:{paris.url.rpartition(':')[2]}"}
    assert direct.run("remote_access", moved)["changed"]
    assert "https://localhost:" in file.read_text()

    gone = {**options, "state": "absent"}
    assert direct.run("remote_access", gone, check=True)["changed"]
    assert file.exists()
    direct.run("remote_access", gone)
    assert not file.exists()
    assert not direct.run("remote_access", gone)["changed"]


def test_nothing_is_written_when_the_file_cannot_be(direct, paris, tmp_path):
    start = len(audit(paris))
    answer = direct.run("remote_access", {**auth(paris), "kubeconfig_file": str(tmp_path / "none" / "k")})
    assert f"there is no folder {tmp_path}/none; make it first" in answer["msg"]
    assert writes(paris, start) == []


def test_the_role_keeps_the_file(paris, tmp_path):
    plays = Playbooks(tmp_path)
    file = tmp_path / "paris-for-peers"
    plays.hosts(paris={"mesh_kubeconfig": str(paris.kubeconfig), "mesh_access_kubeconfig_file": str(file)})
    code, said = plays.run("mesh", {}, "--tags", "access", "-vvv", "--diff")
    assert code == 0, said
    assert mode(file) == 0o600
    assert token(file.read_text()) not in said


def kubectl(kubeconfig: Path) -> subprocess.CompletedProcess[str]:
    argv = (*program("kubectl"), f"--kubeconfig={kubeconfig}", "get", "nodes", "-o", "name")
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


async def test_clients_reach_the_server_by_the_name_they_are_told_and_by_no_other(direct, paris, tmp_path):
    port = paris.url.rpartition(":")[2]
    told = {**auth(paris), "server": f"https://localhost:{port}", "tls_server_name": "kubernetes.default.svc"}
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    answer = direct.run("remote_access", {**told, "kubeconfig_file": str(right)})
    assert answer["server"] == f"https://localhost:{port}"
    cluster = yaml.safe_load(answer["kubeconfig"])["clusters"][0]["cluster"]
    assert (cluster["server"], cluster["tls-server-name"]) == (answer["server"], "kubernetes.default.svc")
    direct.run("remote_access", {**told, "tls_server_name": "other.example", "kubeconfig_file": str(wrong)})

    assert kubectl(right).returncode == 0
    assert "valid for" in kubectl(wrong).stderr
    async with Client(await from_file(right), user_agent="test") as client:
        assert json.loads(await client.request("GET", "/api/v1/nodes"))["kind"] == "NodeList"
    async with Client(await from_file(wrong), user_agent="test") as client:
        with pytest.raises(Untrusted):
            await client.request("GET", "/api/v1/nodes")


def test_daemons_get_the_server_and_the_name_too(direct, paris):
    told = {**auth(paris), "server": "https://10.9.8.7:6443", "tls_server_name": "kubernetes"}
    answer = direct.run("daemon_access", told)
    for key in ("controller_kubeconfig", "agent_kubeconfig"):
        cluster = yaml.safe_load(answer[key])["clusters"][0]["cluster"]
        assert (cluster["server"], cluster["tls-server-name"]) == (told["server"], told["tls_server_name"])
