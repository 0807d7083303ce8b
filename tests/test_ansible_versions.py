"""The collection with older releases of ansible-core: each in an environment of its own, against real API servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clustermesh_lab import ControlPlane

from tests.integration_modules.runner import ansible_tree, writes

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("core", ["2.17", "2.18"])  # everything else here runs with 2.19
def test_clusters_are_meshed_once_looked_at_and_left(core: str, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"ansible-core~={core}.0", "kubernetes", "netaddr"], check=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(ansible_tree(tmp_path / "collections")),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_NOCOLOR": "1",
    }

    def run(playbook: str, *flags: str) -> str:
        command = [venv / "bin" / "ansible-playbook", "-i", tmp_path / "hosts.json", f"clustermesh.core.{playbook}"]
        done = subprocess.run([*command, *flags], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    version = subprocess.run([venv / "bin" / "ansible", "--version"], capture_output=True, text=True, check=True)
    assert f"core {core}." in version.stdout
    with (
        ControlPlane(name="oslo", controller_manager=True) as oslo,
        ControlPlane(name="paris", controller_manager=True) as paris,
    ):
        hosts = {plane.name: {"mesh_kubeconfig": str(plane.kubeconfig)} for plane in (oslo, paris)}
        shared = {"ansible_connection": "local", "ansible_python_interpreter": str(venv / "bin" / "python")}
        (tmp_path / "hosts.json").write_text(json.dumps({"mesh_clusters": {"hosts": hosts, "vars": shared}}))
        run("mesh", "--tags", "preflight,peering,daemon", "--check", "--diff")
        assert [*writes(oslo), *writes(paris)] == []
        run("mesh", "--tags", "preflight,peering,daemon")
        before = [*writes(oslo), *writes(paris)]
        assert "changed=0" in run("mesh", "--tags", "preflight,peering,daemon")
        assert [*writes(oslo), *writes(paris)] == before
        assert "oslo--paris" in run("status")
        run("rotate", "-e", "mesh_wait=1", "--check")
