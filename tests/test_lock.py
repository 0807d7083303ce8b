"""What is installed is what was locked: versions and digests, of the tools and of what the daemon carries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS, DAEMON = ROOT / "requirements-dev.txt", ROOT / "daemon" / "requirements.txt"


def locked(file: Path) -> dict[str, list[str]]:
    """Name and version -> digests."""
    text = re.sub(r" \\\n", " ", file.read_text())
    lines = [line.split(" ") for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {name: [part for part in rest if part] for name, *rest in lines}


@pytest.mark.parametrize("file", [TOOLS, DAEMON], ids=lambda file: file.name)
def test_every_requirement_has_one_version_and_digests(file):
    for name, digests in locked(file).items():
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+", name)
        assert digests
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", digest) for digest in digests), name


def test_the_daemon_carries_what_it_is_tested_with():
    tools = locked(TOOLS)
    assert {name: tools.get(name) for name in locked(DAEMON)} == locked(DAEMON), "run: make lock"
