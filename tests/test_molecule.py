"""The Molecule scenarios of the collection, as `molecule test` runs them by hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
ROLES = ("mesh_crds", "mesh_access", "mesh_peering", "mesh_daemon")
WRITTEN = Counter({(f"clustermesh.core.{role}", cluster): 1 for role in ROLES for cluster in ("east", "west")})
# on a node the daemon is laid down and started
WRITTEN |= Counter({("clustermesh.core.mesh_daemon", node): 2 for node in ("east-n1", "west-n1")})
SCENARIOS = sorted(file.parent.name for file in ROOT.glob("molecule/*/molecule.yml"))
QUICK = ("mesh_access", "policy_drift")  # beside `default`, what every run of the tests has time for


def changes(output: str, scenario: str, action: str) -> list[tuple[str, str]]:
    """(task, host and item) of everything that a run of a scenario's action changed, or said it would."""
    begin = output.index(f"[{scenario} > {action}] Executing")
    text = output[begin : output.index(f"[{scenario} > {action}] Executed", begin)]
    found, task = [], ""
    for line in text.splitlines():
        if title := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \**$", line):
            task = title[1]
        elif changed := re.match(r"changed: \[(.*)", line):
            found.append((task, changed[1].removesuffix(" =>")))
    return sorted(found)


def run(scenario: str) -> str:
    """What `molecule test` printed."""
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        [BIN / "molecule", "test", "-s", scenario],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    lab = subprocess.run([BIN / "lab", "list"], env=env, capture_output=True, text=True, check=True)
    assert os.environ.get("CLUSTERMESH_LAB", "molecule") not in lab.stdout
    return done.stdout


@pytest.mark.lab
@pytest.mark.timeout(1200)
def test_the_default_scenario_predicts_its_changes_converges_is_idempotent_verifies_and_leaves_nothing():
    output = run("default")
    predicted, real = changes(output, "default", "check"), changes(output, "default", "converge")
    by_role = Counter((task.partition(" : ")[0], host.partition("]")[0]) for task, host in real)
    assert by_role == WRITTEN
    assert predicted == real


@pytest.mark.lab
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "scenario",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SCENARIOS if name != "default"],
)
def test_a_scenario_of_the_life_of_a_mesh(scenario: str):
    run(scenario)
