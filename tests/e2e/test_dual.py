"""Both address families at once, on the `dual` preset."""

from __future__ import annotations

import pytest
from clustermesh_lab import Lab

from demo import probes, scenario

PRESET = "dual"
pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.mark.parametrize("family", [4, 6])
def test_pods_reach_pods_of_the_other_cluster_in_both_families_and_keep_their_source(meshed: Lab, family: int):
    crossings = scenario.crossings(meshed, family)
    assert {(c.client.cluster, c.server.cluster) for c in crossings} == {("east", "west"), ("west", "east")}
    assert [c for c in crossings if c.source != c.client.ip(family)] == []


@pytest.mark.parametrize("cluster", ["east", "west"])
def test_a_federated_service_is_answered_by_both_clusters(meshed: Lab, cluster: str):
    counts = scenario.answers(meshed, cluster, f"reviews.{scenario.NAMESPACE}", 20)
    assert counts.total() == 20
    assert set(counts) == {"east", "west"}


def test_hosts_reach_remote_pods_in_both_families(meshed: Lab):
    east, west = meshed.clusters["east"], meshed.clusters["west"]
    (server, *_) = probes.pods(west, "app=reviews")
    for family, host in ((4, server.ip(4)), (6, f"[{server.ip(6)}]")):
        for node in east.nodes.values():
            url = f"http://{host}:{probes.PORT}/clientip"
            assert node.exec(["curl", "-gsS", "--max-time", "5", url]).stdout.strip(), f"IPv{family}"
