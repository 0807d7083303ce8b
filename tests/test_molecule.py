"""The Molecule scenario of the collection, as `molecule test` runs it by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.lab
@pytest.mark.timeout(1200)
def test_the_default_scenario_checks_converges_is_idempotent_verifies_and_leaves_nothing():
    bin_directory = Path(sys.executable).parent
    env = {
        **os.environ,
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        [bin_directory / "molecule", "test", "-s", "default"],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    lab = subprocess.run([bin_directory / "lab", "list"], env=env, capture_output=True, text=True, check=True)
    assert "molecule" not in lab.stdout
