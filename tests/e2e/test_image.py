"""The daemons as workloads of real kubelets: two clusters, meshed from their hosts alone, no node in the inventory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustermesh_lab import Lab, Topology
from clustermesh_lab.cluster import LabCluster

from demo import probes, scenario

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
IMAGE = "clustermesh.local/clustermeshd:test"
SETTINGS = ("-e", "mesh_daemon_mode=kubernetes", "-e", f"mesh_daemon_image={IMAGE}")
NAMESPACE = "clustermesh-system"
AGENTS = ("-l", "app.kubernetes.io/name=clustermesh-agent")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("image") / "image.tar"
    line = [sys.executable, "-m", "image", "--name", IMAGE, "--output", str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def lab(archive: Path) -> Iterator[Lab]:
    lab = Lab.up(Topology.preset("demo"), name="e2e-image")
    try:
        lab.load_image(archive)
        scenario.playbook(lab, "mesh.yml", *SETTINGS)
        scenario.deploy(lab)
        scenario.federated(lab)
        yield lab
    finally:
        lab.down()


def items(cluster: LabCluster, *what: str) -> list[dict]:
    return json.loads(cluster.kubectl("-n", NAMESPACE, "get", *what, "-o", "json"))["items"]


def kernel(cluster: LabCluster) -> dict[str, str]:
    """What the mesh made on every node, without what counts or ages."""
    commands = (["ip", "route", "show", "table", "4097"], ["ip", "rule"], ["ip", "nexthop"], ["ip", "-br", "link"])
    return {
        f"{node} {' '.join(argv)}": cluster.nodes[node].exec(argv).stdout
        for node in cluster.nodes
        for argv in commands
    }


def test_pods_reach_pods_of_the_other_cluster_and_keep_their_source(lab: Lab):
    crossings = scenario.crossings(lab)
    assert {(c.client.cluster, c.server.cluster) for c in crossings} == {("east", "west"), ("west", "east")}
    assert [c for c in crossings if not c.is_preserved] == []


def test_a_federated_service_is_answered_by_both_clusters(lab: Lab):
    assert set(scenario.answers(lab, "east", f"reviews.{scenario.NAMESPACE}", 30)) == {"east", "west"}


def test_agents_have_one_capability_and_controllers_none_and_no_root_file_system_is_writable(lab: Lab):
    for pod in items(lab.clusters["east"], "pods"):
        (container,) = pod["spec"]["containers"]
        security = container["securityContext"]
        is_agent = container["name"] == "agent"
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"], **({"add": ["NET_ADMIN"]} if is_agent else {})}
        assert bool(pod["spec"]["securityContext"].get("runAsUser")) is not is_agent
        mask = lab.clusters["east"].nodes[pod["spec"]["nodeName"]].exec(["sh", "-c", capabilities(container["name"])])
        assert set(mask.stdout.split()) == {"0000000000001000" if is_agent else "0000000000000000"}


def capabilities(daemon: str) -> str:
    """A script that prints the effective capabilities of every such daemon of a node."""
    look = "grep -q pgrep /proc/$p/cmdline || awk '/CapEff/ {print $2}' /proc/$p/status"
    return f"for p in $(pgrep -f 'clustermeshd {daemon} '); do {look}; done"


def test_a_second_run_changes_nothing(lab: Lab):
    assert scenario.playbook(lab, "mesh.yml", *SETTINGS).changed == 0


def test_a_killed_agent_removes_no_route_and_is_replaced(lab: Lab):
    east = lab.clusters["east"]
    before = kernel(east)
    assert any("proto 77" in text for text in before.values())
    old = {pod["metadata"]["uid"] for pod in items(east, "pods", *AGENTS)}
    east.kubectl("-n", NAMESPACE, "delete", "pods", *AGENTS, "--grace-period=0", "--force", "--wait=false")
    assert kernel(east) == before

    def replaced() -> bool:
        assert kernel(east) == before, "something went while no agent ran"
        pods = items(east, "pods", *AGENTS)
        ready = [p for p in pods if {"type": "Ready", "status": "True"}.items() <= ready_condition(p).items()]
        return len(ready) == len(east.nodes) and old.isdisjoint(p["metadata"]["uid"] for p in pods)

    scenario.until("new agents", replaced, 120)
    assert [c for c in scenario.crossings(lab) if not c.is_preserved] == []


def ready_condition(pod: dict) -> dict:
    return next((c for c in pod["status"].get("conditions", []) if c["type"] == "Ready"), {})


def test_the_other_controller_takes_over_when_the_leader_goes(lab: Lab):
    east = lab.clusters["east"]

    def holder() -> str:
        lease = json.loads(east.kubectl("-n", NAMESPACE, "get", "lease", "clustermesh-controller", "-o", "json"))
        return lease["spec"].get("holderIdentity") or ""

    first = holder()
    east.kubectl("-n", NAMESPACE, "delete", "pod", first.partition("_")[0], "--grace-period=0", "--force")
    scenario.until("another leader", lambda: holder() not in ("", first), 60)
    scenario.scale(lab, "west", "reviews-v2", 2)
    scenario.federated(lab)


def test_leaving_takes_workloads_and_routes_off_the_nodes_also_after_a_run_that_was_broken_off(lab: Lab):
    west = lab.clusters["west"]
    leaving = (*SETTINGS, "-e", "mesh_leaving=west")
    broken = ("-e", f"mesh_daemon_image={IMAGE}-missing", "-e", "mesh_daemon_rollout_timeout=3")
    with pytest.raises(scenario.NotAsPromised, match="west: the mesh is not off these nodes within 3 s: n1, n2; is"):
        scenario.playbook(lab, "playbooks/leave.yml", *leaving, *broken)
    assert items(west, "daemonsets,deployments") == []
    for node in west.nodes.values():  # as of an agent that died before the peers went
        node.exec(["ip", "route", "add", "10.99.0.0/24", "dev", "lo", "proto", "77", "table", "4097"])
    foretold = scenario.playbook(lab, "playbooks/leave.yml", *leaving, "--check")
    assert scenario.playbook(lab, "playbooks/leave.yml", *leaving).changes == foretold.changes
    left = [text for text in kernel(west).values() if "clustermesh0" in text or "4097" in text or "proto 77" in text]
    assert left == []
    assert [n for n in json.loads(west.kubectl("get", "daemonsets,deployments", "-A", "-o", "json"))["items"]
            if n["metadata"]["name"].startswith("clustermesh")] == []  # fmt: skip
    assert probes.pods(lab.clusters["east"], "app=reviews") != []
