"""Which pods a node is held to reach."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

PLAYBOOK = Path(__file__).parents[3] / "playbooks/validate.yml"


def pods(peers: list[str], **results: dict) -> dict[str, list]:
    """What ``mesh_validate_pods`` is on a node whose cluster reads these peers."""
    (play,) = (
        play for play in yaml.safe_load(PLAYBOOK.read_text()) if play["name"].startswith("See that nodes reach")
    )
    own = {name: trust_as_template(text) for name, text in play["vars"].items()}
    hosts = {name: {"mesh_validate_result": result} if result else {} for name, result in results.items()}
    variables = {**own, "mesh_validate_peers": peers, "hostvars": hosts}
    return Templar(loader=DataLoader(), variables=variables).template(own["mesh_validate_pods"])


def test_a_node_is_held_to_reach_pods_of_peers_whose_own_mesh_is_well():
    some = [{"address": "10.2.0.5", "port": 0}]
    well, ill = {"ready": True, "pods": some}, {"ready": False, "pods": some}
    failed = {"failed": True, "msg": "does not answer"}
    found = pods(["west", "north", "south", "lost"], west=well, north=ill, south=failed, lost={}, other=well)
    assert found == {"west": some}


def test_a_peer_without_pods_asks_for_none():
    assert pods(["west"], west={"ready": True}) == {"west": []}
    assert pods([], west={"ready": True}) == {}
