"""Runs playbooks of this checkout as a user does, with everything they say kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.integration_modules.runner import ansible_tree


class Playbooks:
    """ansible-playbook on an inventory of one's own, with a log file and the JSON callback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "ansible.log"
        self._env = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ansible_tree(directory / "collections")),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOG_PATH": str(self.log),
            "ANSIBLE_LOCAL_TEMP": str(directory / "local"),
            "ANSIBLE_REMOTE_TEMP": str(directory / "remote"),
        }
        self.inventory = directory / "hosts.json"

    def hosts(self, nodes: dict[str, dict] | None = None, /, **clusters: dict) -> None:
        """Writes the inventory: variables by name of node and of cluster."""
        shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        group = {"hosts": clusters, "vars": shared}
        self.inventory.write_text(json.dumps({"mesh_clusters": group, "mesh_nodes": {"hosts": nodes or {}}}))

    def run(self, playbook: str, variables: dict, *flags: str, callback: str = "default") -> tuple[int, str]:
        """(exit code, output and errors)."""
        given = self.directory / "variables.json"
        given.write_text(json.dumps(variables))
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.inventory)]
        argv += [f"clustermesh.core.{playbook}", "-e", f"@{given}", *flags]
        env = {**self._env, "ANSIBLE_STDOUT_CALLBACK": callback}
        ran = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=240)
        return ran.returncode, ran.stdout + ran.stderr
