"""etcd and an API server alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clustermesh_lab import ControlPlane, LabError
from clustermesh_lab.build import program
from clustermesh_lab.process import ProcessId

pytestmark = pytest.mark.lab


def kubectl(config: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess:
    line = [*program("kubectl"), f"--kubeconfig={config}", *arguments]
    return subprocess.run(line, capture_output=True, text=True, input=stdin, check=False)


def until(claim, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def api():
    with ControlPlane() as running:
        yield running


def test_it_serves_an_admin_and_audits_it(api):
    assert "kube-system" in kubectl(api.kubeconfig, "get", "namespaces").stdout
    events = [json.loads(line) for line in api.audit_log.read_text().splitlines()]
    assert any(e["user"]["username"] == "admin" and e["verb"] == "list" for e in events)
    assert {e["stage"] for e in events} <= {"ResponseComplete", "ResponseStarted", "Panic"}


def test_other_identities_may_do_what_rbac_grants(api):
    bob = api.client("bob", ["devs"])
    assert "Forbidden" in kubectl(bob, "get", "namespaces").stderr
    kubectl(api.kubeconfig, "create", "clusterrole", "reader", "--verb=list", "--resource=pods")
    kubectl(api.kubeconfig, "create", "clusterrolebinding", "devs", "--clusterrole=reader", "--group=devs")
    until(lambda: kubectl(bob, "auth", "can-i", "list", "pods").stdout.strip() == "yes")


def test_a_paused_api_server_goes_on_where_it_was(api):
    api.pause("apiserver")
    api.resume("apiserver")
    assert kubectl(api.kubeconfig, "get", "--raw", "/readyz").stdout == "ok"


def test_old_resource_versions_are_gone_after_compaction_and_restart(api):
    before = json.loads(kubectl(api.kubeconfig, "get", "--raw", "/api/v1/namespaces").stdout)
    old = before["metadata"]["resourceVersion"]
    kubectl(api.kubeconfig, "create", "namespace", "later")
    api.compact()
    api.restart("apiserver")
    path = f"/api/v1/namespaces?watch=1&resourceVersion={old}&timeoutSeconds=1"
    answer = kubectl(api.kubeconfig, "get", "--raw", path)
    assert "too old resource version" in answer.stdout + answer.stderr


def test_a_killed_store_comes_back_with_its_data(api):
    kubectl(api.kubeconfig, "create", "namespace", "kept")
    api.kill("etcd")
    api.start("etcd")
    assert "kept" in kubectl(api.kubeconfig, "get", "namespaces").stdout


def test_leaving_ends_it_and_removes_its_files():
    with ControlPlane(controller_manager=True) as running:
        directory = running.directory
        children = [ProcessId.of(c.pid) for c in running._children.values()]
    assert not directory.exists()
    assert not any(c and c.is_alive() for c in children)


def test_a_wrong_flag_is_told_with_the_words_of_the_program():
    with (
        pytest.raises(LabError, match="unknown flag: --nonsense"),
        ControlPlane(flags={"kube-apiserver": {"nonsense": "1"}}),
    ):
        pass


def test_what_a_killed_run_left_is_ended_by_the_next():
    script = "from clustermesh_lab import ControlPlane; c = ControlPlane().start(); print(c.directory, flush=True); "
    script += "import time; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    directory = Path(child.stdout.readline().strip())
    processes = [ProcessId(*p) for p in json.loads((directory / "processes.json").read_text())]
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert any(p.is_alive() for p in processes)
    ControlPlane().stop()
    until(lambda: not any(p.is_alive() for p in processes))
    assert not directory.exists()
