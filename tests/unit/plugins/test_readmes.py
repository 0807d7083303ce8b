"""The README of a role names the variables that it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.clustermesh.core.plugins.modules import peering

ROLES = Path(__file__).parent.parent.parent.parent / "roles"


@pytest.mark.parametrize("role", sorted(path.name for path in ROLES.iterdir()))
def test_every_variable_has_a_row_and_no_other(role):
    specs = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    rows = re.findall(r"^\| `(mesh_\w+)`", (ROLES / role / "README.md").read_text(), re.MULTILINE)
    assert set(rows) == {name for entry in specs.values() for name in entry.get("options") or {}}


def test_the_readme_says_all_that_can_be_said_of_a_peer():
    options = yaml.safe_load(peering.DOCUMENTATION)["options"]["peers"]["suboptions"]
    text = (ROLES / "mesh_peering" / "README.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| `mesh_peering_peers`")]
    assert [name for name in options if name not in row] == []
