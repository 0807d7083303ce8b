"""The units of the daemons as systemd itself judges them."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import jinja2
import pytest

TEMPLATE = Path(__file__).parents[3] / "roles/mesh_daemon/templates/unit.service.j2"


def written(daemon: str, folder: Path) -> Path:
    """The unit of a daemon as the role writes it."""
    values = {
        "ansible_managed": "managed",
        "mesh_daemon_unit": daemon,
        "mesh_daemon_agent_args": [],
        "mesh_daemon_controller_args": [],
        "mesh_daemon_root": "/opt/clustermesh",
        "mesh_daemon_etc": "/etc/clustermesh",
        "mesh_daemon_node_name": "node1",
        "mesh_daemon_unit_lines": [],
    }
    unit = folder / f"clustermesh-{daemon}.service"
    unit.write_text(jinja2.Template(TEMPLATE.read_text(), undefined=jinja2.StrictUndefined).render(values))
    return unit


@pytest.mark.parametrize("daemon", ["agent", "controller"])
def test_a_daemon_that_ends_is_started_again_however_often_and_is_killed_when_it_hangs(
    daemon: str, tmp_path: Path
) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(written(daemon, tmp_path))
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"  # else five quick failures leave it down for good
    wanted = {"Type": "notify", "Restart": "always", "RestartSec": "1", "WatchdogSec": "30", "TimeoutStartSec": "90"}
    assert {key: unit["Service"][key] for key in wanted} == wanted


@pytest.mark.parametrize(("daemon", "threshold"), [("agent", 20), ("controller", 15)])
def test_a_unit_is_as_tight_as_promised(daemon: str, threshold: int, tmp_path: Path) -> None:
    """``threshold``: tenths of the exposure that systemd-analyze gives, 9.6 for a bare unit."""
    unit = written(daemon, tmp_path)
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", "--no-pager", str(unit)]
    judged = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert judged.returncode == 0, judged.stdout[-600:] + judged.stderr
