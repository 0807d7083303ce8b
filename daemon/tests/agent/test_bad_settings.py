"""Settings of an agent that cannot be are refused by the name of their flag, before all else."""

from __future__ import annotations

import subprocess
import sys

import pytest
from clustermeshd.agent.options import AgentOptions
from clustermeshd.cli.daemon import parser
from clustermeshd.model.errors import Refused

BAD = [
    *(f"--table={number}" for number in (0, -1, 253, 254, 255, 1 << 32)),
    *(f"--route-protocol={number}" for number in (-1, 0, 2, 3, 4, 256)),
    *(f"--rule-priority={number}" for number in (-1, 0, 32766, 32767)),
    *(f"--vni={number}" for number in (-1, 0, (1 << 24) - 1, 1 << 24)),
    *(f"--port={number}" for number in (-1, 0, 65536)),
    *(f"--device={name}" for name in ("", "a" * 14, "mesh/0", "mesh 0", "mesh:0", ".", "..", "mesh%d", 'mesh"', "-m")),
    *(f"--nft-table={name}" for name in ("", "a" * 256, "my table", "a;b", "a{", "a\nb")),
    *(f"--underlay-cidr={text}" for text in ("eth0", "10.0.0.0/40", "10.0.0.0/8,fd00::/200")),
    *(f"--probe-port={number}" for number in (0, 65536)),
    *(f"--probe-interval={number}" for number in (0, -1, "nan")),
    *(f"--probe-timeout={number}" for number in (0, -1)),
    "--probe-sample=-1",
]
GOOD = [
    *(f"--table={number}" for number in (1, 252, 256, 5000, (1 << 32) - 1)),
    *(f"--route-protocol={number}" for number in (5, 255)),
    *(f"--rule-priority={number}" for number in (1, 32765)),
    *(f"--vni={number}" for number in (1, (1 << 24) - 2)),
    *(f"--port={number}" for number in (1, 65535)),
    *(f"--device={name}" for name in ("m", "mesh-0.1_a", "a" * 13)),
    *(f"--nft-table={name}" for name in ("m", "mesh-0.1_a", "a" * 255)),
    *(f"--underlay-cidr={text}" for text in ("", "10.0.0.0/8", "10.0.0.0/8, fd00::/8")),
    "--probe-sample=0",
    "--underlay-interface=bond*",
]


def options(*arguments: str) -> AgentOptions:
    return AgentOptions.of(parser().parse_args(["agent", *arguments]))


@pytest.mark.parametrize("argument", BAD)
def test_setting_that_cannot_be_is_refused_by_its_flag(argument: str) -> None:
    with pytest.raises(Refused) as refused:
        options(argument).check()
    flag, _, _ = argument.partition("=")
    assert refused.value.where == flag
    assert refused.value.reason == "BadSetting"


@pytest.mark.parametrize("argument", ["", *GOOD])
def test_setting_that_can_be_is_taken(argument: str) -> None:
    options(*filter(None, [argument])).check()


@pytest.mark.parametrize("action", ["--once", "--uninstall", "--dry-run"])
def test_agent_says_so_and_ends_before_it_reads_or_writes_anything(action: str) -> None:
    command = [sys.executable, "-m", "clustermeshd.cli.daemon", "agent", action, "--table", "254"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "--table: 254 is the kernel's own table main; choose" in done.stderr
    assert len(done.stderr.splitlines()) == 1
