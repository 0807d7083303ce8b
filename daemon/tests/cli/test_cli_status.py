"""``clustermesh status``: what is, what is wrong, and what to do about it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from cli_schemas import STATUS
from cli_world import apply, clustermesh, configuration, eventually, kubectl, mesh_node, service
from clustermesh_lab import ControlPlane
from clustermeshd.cli.status import expiry_problem, lease_problems, node_problems
from clustermeshd.kube import objects
from jsonschema import validate

NOW = datetime(2026, 6, 1, tzinfo=UTC)
BAD_PATH = {
    "cluster": "west",
    "node": "w1",
    "family": 4,
    "reason": "full-size probes are lost",
    "since": "2026-01-01T00:00:00Z",
    "mtu": 1400,
}


@pytest.fixture
def node_again(east: ControlPlane) -> Iterator[None]:
    yield
    apply(east, mesh_node("e1"))


def test_a_mesh_that_is_well_is_told_by_exit_status_0_and_a_document_of_the_schema(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "status", "-o", "json")
    assert done.status == 0, done.out
    validate(done.json, STATUS)
    assert done.json["well"] is True
    assert done.json["problems"] == []
    (peer,) = done.json["peers"]
    assert (peer["name"], peer["connected"], peer["synced"], peer["nodes"]) == ("west", "True", "True", 1)
    assert [(n["name"], n["devices"]) for n in done.json["nodes"]] == [("e1", {"clustermesh0": 1450})]
    assert done.json["services"] == {"federated": 1, "withProblems": 0}


def test_yaml_says_what_json_says(east: ControlPlane):
    told = [clustermesh(east.kubeconfig, "status", "-o", form) for form in ("json", "yaml")]
    assert yaml.safe_load(told[1].out) == told[0].json


def test_every_problem_is_one_line_with_its_fix_and_exit_status_1(east: ControlPlane, node_again: None):
    problem = {"reason": "ForwardingOff", "object": "net.ipv4.ip_forward", "message": "it is 0"}
    paths = {"reachable": 1, "blackHoled": 1, "problems": [BAD_PATH | {"state": "black-holed"}]}
    apply(
        east,
        configuration("north", "no-such-secret"),
        mesh_node("e1", problems=[problem], paths=paths),
        service("store", "broken", selector="app == "),
    )
    try:
        eventually(lambda: "SecretMissing" in clustermesh(east.kubeconfig, "status").out)
        done = clustermesh(east.kubeconfig, "status")
    finally:
        kubectl(east, "delete", "remoteclusterconfiguration/north")
        kubectl(east, "delete", "service/broken", "-n", "store")
    assert done.status == 1
    lines = [line for line in done.out.splitlines() if line.startswith(("ERROR", "WARNING"))]
    expected = [
        ("node e1", "BadPath", "path to west.w1 (IPv4) is black-holed since 2026-01-01T00:00:00Z"),
        ("node e1", "ForwardingOff", "net.ipv4.ip_forward: it is 0"),
        ("peer north", "SecretMissing", "no-such-secret"),
        ("service store/broken", "InvalidSelector", "at character 8"),
    ]
    assert len(lines) == len(expected), lines
    for line, (thing, reason, words) in zip(sorted(lines), expected, strict=True):
        assert line.startswith(f"ERROR     {thing}: {reason}: ")
        assert words in line
        assert "; fix: " in line or "; create it" in line


def test_a_lossy_path_is_a_warning_and_no_failure(east: ControlPlane, node_again: None):
    apply(east, mesh_node("e1", paths={"reachable": 1, "degraded": 1, "problems": [BAD_PATH | {"state": "degraded"}]}))
    done = clustermesh(east.kubeconfig, "status", "-o", "json")
    assert (done.status, done.json["well"]) == (0, True)
    assert [p["severity"] for p in done.json["problems"]] == ["warning"]


def test_wait_ends_as_soon_as_all_is_well(east: ControlPlane, node_again: None):
    apply(east, mesh_node("e1", problems=[{"reason": "NoUnderlay", "object": "node", "message": "not yet"}]))
    line = [sys.executable, "-m", "clustermeshd.cli.people", "status", f"--kubeconfig={east.kubeconfig}"]
    with subprocess.Popen([*line, "--wait=60"], stdout=subprocess.PIPE, text=True) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=2)
        apply(east, mesh_node("e1"))
        out, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 0
    assert "All is well." in out


@pytest.mark.parametrize(
    ("age_s", "reasons"), [(10, []), (70, []), (90, ["NotLeading"]), (86400, ["NotLeading"])], ids=str
)
def test_a_lease_that_nobody_renews_is_told(age_s: int, reasons: list[str]):
    renewed = (NOW - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    spec = objects.LeaseSpec(holder_identity="a", lease_duration_seconds=15, renew_time=renewed)
    assert [p.reason for p in lease_problems(objects.Lease(spec=spec), NOW)] == reasons


@pytest.mark.parametrize(("age_s", "reasons"), [(600, []), (960, ["AgentSilent"]), (None, [])], ids=str)
def test_an_agent_that_is_not_heard_is_told(age_s: int | None, reasons: list[str]):
    heard = age_s and (NOW - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = (objects.Condition("Ready", "True"),)
    node = objects.MeshNode(status=objects.MeshNodeStatus(conditions=ready, last_heartbeat_time=heard))
    assert [p.reason for p in node_problems(node, NOW)] == reasons


@pytest.mark.parametrize(("days", "severity"), [(-1, "error"), (1, "warning"), (6.9, "warning"), (8, None)])
def test_a_credential_that_ends_is_told_a_week_before(days: float, severity: str | None):
    problem = expiry_problem("peer west", NOW + timedelta(days=days), NOW)
    assert (problem.severity if problem else None) == severity


def test_a_hostile_name_cannot_drive_a_terminal(east: ControlPlane, node_again: None):
    apply(
        east, mesh_node("e1", problems=[{"reason": "NotProgrammed", "object": "x", "message": "\x1b[2J\nERROR peer"}])
    )
    out = clustermesh(east.kubeconfig, "status").out
    assert "\x1b" not in out
    assert "\\x1b[2J\\x0aERROR peer" in out
