"""What a role has a default for reaches something: its tasks, its templates, or another default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROLES = sorted((Path(__file__).parents[3] / "roles").glob("*/defaults/main.yml"))


@pytest.mark.parametrize("file", ROLES, ids=lambda file: file.parts[-3])
def test_every_default_is_used(file: Path):
    options = set(yaml.safe_load(file.read_text()))
    role = file.parents[1]
    texts = [
        path.read_text() for part in ("tasks", "templates", "vars", "handlers") for path in role.glob(f"{part}/*")
    ]
    texts += [text.partition(":")[2] for text in file.read_text().split("\n")]
    used = {name for text in texts for name in re.findall(r"\bmesh_\w+", text)}
    assert options
    assert options - used == set()
