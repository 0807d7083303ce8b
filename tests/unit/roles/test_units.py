"""The units of the daemons as systemd itself judges them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jinja2
import pytest

TEMPLATE = Path(__file__).parents[3] / "roles/mesh_daemon/templates/unit.service.j2"


@pytest.mark.parametrize(("daemon", "threshold"), [("agent", 20), ("controller", 15)])
def test_a_unit_is_as_tight_as_promised(daemon: str, threshold: int, tmp_path: Path) -> None:
    """``threshold``: tenths of the exposure that systemd-analyze gives, 9.6 for a bare unit."""
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
    unit = tmp_path / f"clustermesh-{daemon}.service"
    unit.write_text(jinja2.Template(TEMPLATE.read_text(), undefined=jinja2.StrictUndefined).render(values))
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", "--no-pager", str(unit)]
    judged = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert judged.returncode == 0, judged.stdout[-600:] + judged.stderr
