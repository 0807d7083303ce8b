"""Flags of the agent."""

from __future__ import annotations

import argparse

import pytest
from clustermeshd.agent.options import AgentOptions, add_arguments


@pytest.mark.parametrize(
    ("flags", "bound", "let_in"),
    [([], 9473, 9473), (["--probe-port", "9999"], 9999, 9999), (["--probe-sample", "0"], 9473, 0)],
    ids=["default", "another", "nobody answers"],
)
def test_port_of_probes_is_let_in_where_somebody_answers_there(flags: list[str], bound: int, let_in: int) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = AgentOptions.of(parser.parse_args(flags))
    assert (options.probing.port, options.dataplane.probe_port) == (bound, let_in)
