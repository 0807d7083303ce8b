"""By what a node is searched when a cluster leaves: the agent's marks, as its arguments say."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from clustermeshd.agent.options import AgentOptions, add_arguments

VARIABLES = yaml.safe_load((Path(__file__).parents[3] / "roles/mesh_daemon/vars/main.yml").read_text())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--log-format=json", "--probe-port", "9999"],
        ["--device=mesh9", "--table=5001", "--route-protocol=78", "--nft-table=mesh9"],
        ["--nft-table", "other", "--table", "5002", "--device", "mesh-8", "--route-protocol", "99"],
    ],
)
def test_a_node_is_searched_by_the_marks_that_its_agent_takes_from_the_same_arguments(arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    agent = AgentOptions.of(parser.parse_args(arguments)).dataplane
    known = {
        "mesh_daemon_agent_args": arguments,
        "mesh_daemon_mark_args": trust_as_template(VARIABLES["mesh_daemon_mark_args"]),
    }
    templar = Templar(DataLoader(), variables=known)
    found = {key: templar.template(trust_as_template(text)) for key, text in VARIABLES["mesh_daemon_marks"].items()}
    assert found == {key: str(getattr(agent, key)) for key in found}
    assert set(found) == {"device", "table", "route_protocol", "nft_table"}
