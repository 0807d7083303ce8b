"""Names and addresses of the lab's networks."""

import ipaddress

import pytest
from clustermesh_lab import network
from clustermesh_lab.inside.podnet import Node, masquerade_rules, wanted_routes
from clustermesh_lab.state import Store
from clustermesh_lab.topology import Topology


def test_interface_names_fit_the_kernel_in_the_largest_lab():
    body = {"clusters": {f"c{i}": {"nodes": 200} for i in range(27)}}
    clusters = Topology.parse(body).clusters
    names = {network.node_place(c, n, 99).port for c in clusters for n in c.nodes}
    names |= {network.control_plane_place(c, 99).port for c in clusters}
    assert len(names) == 27 * 201
    assert max(len(n) for n in names) + len("d") <= 15  # "d": the TAP device of a delayed link


def test_addresses_stay_inside_the_subnet_and_never_repeat():
    (cluster,) = Topology.parse({"families": ["ipv4", "ipv6"], "clusters": {"a": {"nodes": 200}}}).clusters
    places = [network.control_plane_place(cluster, 5), *(network.node_place(cluster, n, 5) for n in cluster.nodes)]
    addresses = [a for p in places for a in p.addresses]
    assert len(set(addresses)) == len(addresses)
    for place in places:
        for address, subnet in zip(place.addresses, cluster.subnets(5), strict=True):
            assert ipaddress.ip_address(address) in subnet
    assert places[1].addresses == ("10.133.1.11", "fd00:85:1::11")


def test_labels_of_namespaces_cannot_be_confused():
    names = network.LabNetwork(Store("x"), 7)
    assert names.name("router") == "cml7"
    assert names.name("a-b.c") != names.name("a.b-c")


def test_routes_lead_to_other_nodes_in_their_own_family():
    nodes = {
        "n1": Node("n1", ("10.0.0.1", "fd00::1"), ("10.1.0.0/24", "fd01::/64")),
        "n2": Node("n2", ("10.0.0.2", "fd00::2"), ("10.1.1.0/24", "fd01:0:0:1::/64")),
        "n3": Node("n3", ("10.0.0.3",), ("10.1.2.0/24", "fd01:0:0:2::/64")),
    }
    assert wanted_routes(nodes, "n1") == {
        "10.1.1.0/24": "10.0.0.2",
        "fd01:0:0:1::/64": "fd00::2",
        "10.1.2.0/24": "10.0.0.3",
    }


@pytest.mark.parametrize("pods", [["10.1.0.0/16"], ["fd00:1::/48"], ["10.1.0.0/16", "fd00:1::/48"]])
def test_masquerade_spares_the_own_cluster_only(pods):
    rules = masquerade_rules(pods)
    for cidr in pods:
        assert f"saddr {cidr} " in rules
        assert f"daddr != {{ {cidr}, " in rules
    assert rules.count("masquerade") == len(pods)
