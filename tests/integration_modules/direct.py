"""Runs one module as its own program, as ansible does on a host; without the seconds that ansible itself takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.integration_modules.runner import ROOT, ansible_tree


class Direct:
    """Runs of modules, in check mode and with a diff if asked for."""

    def __init__(self, directory: Path) -> None:
        self._env = {**os.environ, "PYTHONPATH": str(ansible_tree(directory))}

    def run(self, module: str, options: dict, *, check: bool = False) -> dict:
        """The module's answer; a failure is one whose `failed` is true."""
        arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": True}
        ran = subprocess.run(
            [sys.executable, ROOT / "plugins" / "modules" / f"{module}.py"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.stdout.startswith("\n{") or ran.stdout.startswith("{"), ran.stdout + ran.stderr
        return json.loads(ran.stdout)
