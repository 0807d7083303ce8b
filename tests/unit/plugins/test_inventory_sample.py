"""Every topology that the sample inventory offers is one, and the roles would see what its comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible.vars.manager import VariableManager

SAMPLE = Path(__file__).parents[3] / "inventory" / "sample"


def offered() -> list[object]:
    """Values of mesh_pairs that stand in comments; the first is none at all."""
    text = (SAMPLE / "group_vars" / "all" / "mesh.yml").read_text()
    blocks = re.findall(r"^# (mesh_pairs:.*\n(?:#   .*\n)*)", text, re.MULTILINE)
    return [None, *(yaml.safe_load(re.sub(r"^# ", "", block, flags=re.MULTILINE))["mesh_pairs"] for block in blocks)]


@pytest.fixture(scope="module")
def variables() -> dict:
    loader = DataLoader()
    inventory = InventoryManager(loader, sources=[str(SAMPLE)])
    return VariableManager(loader, inventory).get_vars(host=inventory.get_host("oslo"))


@pytest.mark.parametrize(
    ("value", "expected"),
    list(
        zip(
            offered(),
            [
                ["oslo--paris", "oslo--rome", "paris--rome"],
                ["oslo--paris", "oslo--rome", "paris--rome"],
                ["oslo--paris", "oslo--rome"],
                ["oslo--paris", "oslo--rome"],
            ],
            strict=True,
        )
    ),
)
def test_each_topology_of_the_sample_makes_its_pairs(variables, value, expected):
    wanted = trust_as_template(value) if isinstance(value, str) else value
    text = "{{ groups['mesh_clusters'] | clustermesh.core.mesh_pairs(mesh_pairs | default([])) }}"
    templar = Templar(DataLoader(), variables={**variables, **({"mesh_pairs": wanted} if value else {})})
    assert [pair["id"] for pair in templar.template(trust_as_template(text))] == expected


def test_what_pairs_of_the_sample_say_of_themselves_is_understood(variables):
    text = "{{ groups['mesh_clusters'] | clustermesh.core.mesh_pairs(mesh_pairs) }}"
    templar = Templar(DataLoader(), variables={**variables, "mesh_pairs": offered()[1]})
    pairs = templar.template(trust_as_template(text))
    assert [pair.get("overlay") for pair in pairs] == [None, "Disabled", "Disabled"]
    assert [pair.get("readers") for pair in pairs] == [None, None, ["paris"]]


def test_every_cluster_says_how_to_reach_it_and_every_node_whose_it_is():
    loader = DataLoader()
    inventory = InventoryManager(loader, sources=[str(SAMPLE)])
    manager = VariableManager(loader, inventory)
    for host in inventory.get_hosts("mesh_clusters"):
        assert {"mesh_kubeconfig", "mesh_api_server"} & set(manager.get_vars(host=host)), host
    for host in inventory.get_hosts("mesh_nodes"):
        assert manager.get_vars(host=host)["mesh_cluster"] in ("oslo", "paris", "rome"), host
