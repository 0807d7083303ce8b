"""Plays on real API servers: parts of mesh by their tags, and what preflight makes of nodes."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.integration_modules.playbooks import Playbooks
from tests.integration_modules.runner import apply, audit, kubectl, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "mesh_become": False}
NODE = {"mesh_cluster": "paris", "ansible_host": "127.0.0.1", "ansible_port": 1}  # where nothing listens


@pytest.fixture
def mesh(paris, oslo, tmp_path):
    """Runs a part; the writes it made in both clusters. Code 4 is that of a run that asks for the node."""
    plays = Playbooks(tmp_path)
    planes = {"paris": paris, "oslo": oslo}
    plays.hosts({"n1": NODE}, **{name: {"mesh_kubeconfig": str(plane.kubeconfig)} for name, plane in planes.items()})

    def run(tags: str, *, code: int = 0) -> set[str]:
        starts = {name: len(audit(plane)) for name, plane in planes.items()}
        status, output = plays.run("mesh", {"mesh_wait": 1}, "--tags", tags)
        assert (status, "UNREACHABLE" in output, "failed=1" in output) == (code, code == 4, code == 2), output
        return {path for name, plane in planes.items() for path in writes(plane, starts[name])}

    return run


def test_nodes_of_a_cluster_that_was_refused_in_a_run_get_no_daemons(tmp_path, paris, oslo):
    """As a check run, so that nothing would come to this machine if the run went on."""
    kubectl(paris, "create", "namespace", "clustermesh-system")
    kubectl(paris, "create", "serviceaccount", "clustermesh-remote", "-n", "clustermesh-system")  # not ours
    plays = Playbooks(tmp_path)
    clusters = {name: {"mesh_kubeconfig": str(plane.kubeconfig)} for name, plane in (("paris", paris), ("oslo", oslo))}
    plays.hosts({"n1": {**LOCAL, "mesh_cluster": "paris"}}, **clusters)
    code, output = plays.run("mesh", {}, "--tags", "access,daemon", "--check")
    kubectl(paris, "delete", "namespace", "clustermesh-system", "--wait=false")
    assert code == 2, output
    assert "clustermesh-remote; remove them, or set adopt: true" in output
    assert "cluster paris gave no accounts for its daemons in this run" in output


def test_each_tag_is_safe_alone(mesh, paris, oslo):
    assert mesh("preflight", code=4) == set()  # it looks at the nodes too, as daemon does; no other part
    assert mesh("validate", code=2) == set()  # there is nothing that could be well
    access = mesh("access")
    assert any("serviceaccounts/clustermesh-remote" in path for path in access)
    assert not any("remoteclusterconfigurations" in path and "customresource" not in path for path in access)
    peering = mesh("peering")
    assert any("remoteclusterconfigurations/oslo?" in path for path in peering)
    for plane, peer in ((paris, "oslo"), (oslo, "paris")):
        assert kubectl(plane, "get", "remoteclusterconfigurations.clustermesh.io", "-o", "name").split() == [
            f"remoteclusterconfiguration.clustermesh.io/{peer}"
        ]
    assert mesh("peering") == set()
    daemon = mesh("daemon", code=4)
    assert any("serviceaccounts/clustermesh-agent" in path for path in daemon)
    assert mesh("access,peering,daemon", code=4) == set()


def test_a_check_of_rotate_names_the_tokens_that_come_and_those_that_go(tmp_path, paris, oslo):
    plays, planes = Playbooks(tmp_path), {"paris": paris, "oslo": oslo}
    plays.hosts(**{name: {"mesh_kubeconfig": str(plane.kubeconfig)} for name, plane in planes.items()})
    code, output = plays.run("mesh", {}, "--tags", "access,peering,daemon")
    assert code == 0, output
    starts = [len(audit(plane)) for plane in planes.values()]
    code, output = plays.run("rotate", {}, "--check", "--diff")
    assert code == 0, output
    assert [writes(plane, start) for plane, start in zip(planes.values(), starts, strict=True)] == [[], []]
    # issued for peers and daemons, handed to the peer, and the old ones of both retired
    assert re.findall(r"^(\w+) +: .*changed=(\d+)", output, re.MULTILINE) == [("oslo", "5"), ("paris", "5")]


def test_nodes_of_more_clusters_than_forks_probe_in_turns(tmp_path, paris, oslo):
    """Two API servers, each under two names: four clusters, whose nodes are addresses of this machine."""
    plays = Playbooks(tmp_path)
    nodes, clusters = {}, {}
    for number, (cluster, plane) in enumerate({"a": paris, "b": oslo, "c": paris, "d": oslo}.items(), 2):
        node, address = f"{cluster}1", f"127.0.7.{number}"
        status = {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}
        apply(plane, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        kubectl(plane, "patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(status))
        nodes[node] = {**LOCAL, "mesh_cluster": cluster, "mesh_daemon_python": "/nowhere/python3"}
        clusters[cluster] = {"mesh_kubeconfig": str(plane.kubeconfig)}
    clusters["d"]["mesh_daemon_mode"] = "kubernetes"
    plays.hosts(nodes, **clusters)
    report = tmp_path / "report.json"
    settings = {"mesh_preflight_file": str(report), "mesh_port": 14790, "mesh_preflight_probe_seconds": 30}
    code, output = plays.run("preflight", settings, "--forks", "2")
    assert (code, output.count("probe.yml for")) == (2, 2), output
    seen = json.loads(report.read_text())
    assert {
        node["name"]: (len(node["targets"]), node["probe"].get("busy"), node["probe"].get("silent"))
        for node in seen["nodes"]
    } == {name: (1, "", []) for name in nodes}
    python = {finding["cluster"] for finding in seen["findings"] if finding["id"] == "node-python"}
    assert python == {"a1", "b1", "c1"}  # workloads bring theirs along
