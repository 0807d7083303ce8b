"""Both address families at once, on the `dual` preset."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from clustermesh_lab import Lab

from demo import probes, scenario
from tests.e2e.services import back, federate

PRESET = "dual"
OTHER = {"east": "west", "west": "east"}
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


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("cluster", ["east", "west"])
def test_remote_backends_of_a_federated_service_see_the_pod_and_for_a_node_port_the_tunnel_address(
    meshed: Lab, cluster: str
):
    """East has plug-in ptp and kube-proxy with nftables, west bridge and iptables; both plug-ins masquerade."""
    here, there = meshed.clusters[cluster], meshed.clusters[OTHER[cluster]]
    both = {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}
    back(there, "reviews-both", {"selector": {"app": "reviews"}, **both})
    abroad = f'app == "reviews-both" && federation.tigera.io/remoteClusterName == "{there.name}"'
    spec = federate(here, "reviews-abroad", {"type": "NodePort", **both}, abroad)["spec"]
    (client, *_) = probes.pods(here, "app=productpage")
    for address in spec["clusterIPs"]:
        expected = client.ip(ip_address(address).version)
        scenario.until(f"answer by {address}", lambda a=address: probes.source_seen(here, client, a) != "")
        assert {probes.source_seen(here, client, address) for _ in range(4)} == {expected}
    entry, other = here.nodes.values()
    tunnels = {net.version: str(net.network_address) for net in map(ip_network, entry.pod_cidrs)}
    for address in entry.addresses:
        url = f"http://{in_url(address)}:{spec['ports'][0]['nodePort']}/clientip"
        seen = other.exec(["curl", "-gsS", "--max-time", "5", url]).stdout
        assert seen.rsplit(":", 1)[0].strip("[]") == tunnels[ip_address(address).version], url
