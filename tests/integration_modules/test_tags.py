"""Parts of the playbook mesh by their tags: each does its part and nothing else, before and after the others."""

from __future__ import annotations

import sys

import pytest

from tests.integration_modules.playbooks import Playbooks
from tests.integration_modules.runner import audit, kubectl, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
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
    node = {"mesh_cluster": "paris", "ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    clusters = {name: {"mesh_kubeconfig": str(plane.kubeconfig)} for name, plane in (("paris", paris), ("oslo", oslo))}
    plays.hosts({"n1": {**node, "mesh_become": False}}, **clusters)
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
