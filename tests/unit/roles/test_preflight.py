"""What role mesh_preflight makes of the variables of the inventory."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parents[3] / "roles/mesh_preflight"


def value(name: str, **inventory: object) -> object:
    """The default of a variable of the role on host a."""
    texts = [(ROLE / folder / "main.yml").read_text() for folder in ("defaults", "vars")]
    own = {
        k: trust_as_template(v) if isinstance(v, str) else v for text in texts for k, v in yaml.safe_load(text).items()
    }
    variables = {**own, "inventory_hostname": "a", **inventory}
    return Templar(loader=DataLoader(), variables=variables).template(variables[name])


PLAIN = ["a", "b"]


@pytest.mark.parametrize(
    ("inventory", "wanted"),
    [
        ({}, False),
        ({"mesh_pairs": None}, False),
        ({"mesh_overlay": "Disabled"}, True),
        ({"mesh_pairs": [PLAIN, {"pair": ["a", "c"]}]}, False),
        ({"mesh_pairs": [PLAIN, {"pair": ["c", "a"], "overlay": "Disabled"}]}, True),
        ({"mesh_pairs": [PLAIN, {"pair": ["a", "c"], "readers": ["a"]}]}, True),
        ({"mesh_pairs": [PLAIN, {"pair": ["b", "c"], "overlay": "Disabled"}]}, False),
        ({"mesh_pairs": [PLAIN, {"overlay": "Disabled"}]}, False),
    ],
)
def test_rights_to_pools_are_asked_for_where_the_underlay_routes_to_a_peer(inventory, wanted):
    assert value("mesh_preflight_pools", **inventory) is wanted


def test_how_daemons_run_and_which_tokens_peers_get_is_as_in_the_other_roles():
    names = ("mesh_preflight_daemon_mode", "mesh_preflight_token_type")
    assert [value(name) for name in names] == ["systemd", "secret"]
    inventory = {"mesh_daemon_mode": "kubernetes", "mesh_token_type": "request"}
    assert [value(name, **inventory) for name in names] == ["kubernetes", "request"]
