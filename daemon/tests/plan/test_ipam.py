"""Pod prefixes of nodes: Calico's blocks, Node.spec.podCIDRs, single pods; and what admission makes of them."""

from ipaddress import ip_address, ip_network

import pytest
from clustermeshd.kube import objects
from clustermeshd.plan import ipam
from clustermeshd.plan.admission import LocalNetworks
from clustermeshd.plan.remotenodes import PeerNodes, plan

LOCAL = LocalNetworks((ip_network("10.1.0.0/16"),), (), (ip_address("192.168.0.1"),))
TUNNEL = "projectcalico.org/IPv4VXLANTunnelAddr"


def stored(cidr, affinity, users=(), deleted=False, name=None):
    """An IPAMBlock whose first addresses are used by ``users``: the node each is of, None for a free one."""
    nodes = sorted({user for user in users if user is not None})
    return objects.IPAMBlock(
        metadata=objects.Metadata(name=name or cidr.replace(".", "-").replace("/", "-"), resource_version="7"),
        spec=objects.IPAMBlockSpec(
            cidr=cidr,
            affinity=affinity,
            deleted=deleted,
            allocations=tuple(None if user is None else nodes.index(user) for user in users),
            attributes=tuple(objects.IPAMAttribute(secondary={"node": node} if node else None) for node in nodes),
        ),
    )


def node(name, address, *cidrs, tunnel=None):
    return objects.Node(
        metadata=objects.Metadata(name=name, annotations={TUNNEL: tunnel} if tunnel else None),
        spec=objects.NodeSpec(pod_cidrs=cidrs),
        status=objects.NodeStatus(addresses=(objects.NodeAddress(type="InternalIP", address=address),)),
    )


def peer(nodes, prefixes, name="west", created="2026-01-01T00:00:00Z"):
    meta = objects.Metadata(name=name, uid=name, creation_timestamp=created)
    return PeerNodes(objects.RemoteClusterConfiguration(metadata=meta), name, nodes, prefixes=prefixes)


def routes(*peers):
    plans = plan(LOCAL, peers)
    return {name: n.spec.pod_cidrs for made in plans.values() for name, n in made.nodes.items()}


def blocks(*pieces):
    return ipam.from_blocks(map(ipam.block, pieces))


N1, N2 = node("n1", "192.168.1.1", "10.9.1.0/24"), node("n2", "192.168.1.2", "10.9.2.0/24")


def test_a_block_belongs_to_the_node_of_its_affinity_and_counts_instead_of_the_nodes_own_cidrs():
    found = blocks(stored("10.2.0.0/26", "host:n1", ["n1"]), stored("10.2.0.64/26", "host:n2"))
    assert routes(peer([N1, N2], found)) == {"west.n1": ("10.2.0.0/26",), "west.n2": ("10.2.0.64/26",)}


def test_without_any_block_the_nodes_own_cidrs_count():
    assert not ipam.has_blocks([ipam.block(stored("10.2.0.0/26", "host:n1", deleted=True))])
    assert routes(peer([N1, N2], ipam.PodPrefixes())) == {"west.n1": ("10.9.1.0/24",), "west.n2": ("10.9.2.0/24",)}


def test_a_borrowed_address_goes_to_the_node_that_uses_it():
    found = blocks(stored("10.2.0.0/26", "host:n1", ["n1", None, "n2"]))
    assert routes(peer([N1, N2], found)) == {"west.n1": ("10.2.0.0/26",), "west.n2": ("10.2.0.2/32",)}


def test_a_borrowed_ipv6_address_is_a_128():
    found = blocks(stored("fd00:2::/122", "host:n1", [None, "n2"]))
    assert routes(peer([N1, N2], found)) == {"west.n1": ("fd00:2::/122",), "west.n2": ("fd00:2::1/128",)}


@pytest.mark.parametrize("affinity", [None, "", "virtual:load-balancer"])
def test_a_block_of_no_node_gives_only_the_addresses_that_nodes_use(affinity):
    found = blocks(stored("10.2.0.0/26", affinity, ["n2", None, ""]))
    assert routes(peer([N1, N2], found)) == {"west.n1": (), "west.n2": ("10.2.0.0/32",)}


def test_a_deleted_block_is_no_block():
    assert ipam.block(stored("10.2.0.0/26", "host:n1", ["n2"], deleted=True)).cidr == ""
    assert blocks(stored("10.2.0.0/26", "host:n1", ["n2"], deleted=True)).by_node == {}


def test_indices_that_lead_nowhere_give_nothing():
    block = objects.IPAMBlockSpec(
        cidr="10.2.0.0/30",
        affinity="host:n1",
        allocations=(-1, 5, None, 0, 0, 0),
        attributes=(objects.IPAMAttribute(secondary={"node": "n2"}),),
    )
    assert ipam.block(objects.IPAMBlock(spec=block)).lent == (("n2", "10.2.0.3/32"),)


def test_two_peers_never_share_an_address_not_even_a_borrowed_one():
    old = peer([N1], blocks(stored("10.2.0.0/26", "host:n1")), "old", "2025-01-01T00:00:00Z")
    young = peer([N2], blocks(stored("10.2.0.7/32", "host:n2"), stored("10.3.0.0/26", None, ["n2"])), "young")
    made = plan(LOCAL, [young, old])
    assert made["young"].nodes["young.n2"].spec.pod_cidrs == ("10.3.0.0/32",)
    assert [(r.name, r.reason) for r in made["young"].refused] == [("n2", "OverlapsPeer")]
    assert "10.2.0.0/26 of peer old" in made["young"].refused.examples[0].message


def test_one_prefix_has_one_node():
    found = blocks(stored("10.2.0.0/26", "host:n1"), stored("10.2.0.0/26", "host:n2", name="twin"))
    made = plan(LOCAL, [peer([N1, N2], found)])["west"]
    assert {n.spec.node_name: n.spec.pod_cidrs for n in made.nodes.values()} == {"n1": ("10.2.0.0/26",), "n2": ()}
    assert [r.reason for r in made.refused] == ["Duplicate"]


def test_a_prefix_that_covers_a_node_of_its_cluster_is_refused():
    made = plan(LOCAL, [peer([N1, N2], blocks(stored("192.168.1.0/24", "host:n1")))])["west"]
    assert [r.reason for r in made.refused] == ["CoversNode"]
    assert set(made.nodes) == {"west.n1", "west.n2"}


def test_a_tunnel_address_counts_where_the_node_itself_has_it():
    def tunnel(*pieces, at):
        nodes = [node("n1", "192.168.1.1", tunnel=at), N2]
        return plan(LOCAL, [peer(nodes, blocks(*pieces))])["west"].nodes["west.n1"].spec.tunnel_addresses

    own, other = stored("10.2.0.0/26", "host:n1", ["n1", "n2"]), stored("10.2.0.64/26", "host:n2", ["n1"])
    assert tunnel(own, at="10.2.0.5") == ("10.2.0.5",)
    assert tunnel(own, at="10.2.0.1") == ()  # lent to n2
    assert tunnel(own, other, at="10.2.0.64") == ("10.2.0.64",)  # borrowed from n2
    assert tunnel(own, other, at="10.2.0.65") == ()


def pod(name, node_name, *ips, **more):
    spec = objects.PodSpec(node_name=node_name, host_network=more.pop("host_network", False))
    status = objects.PodStatus(phase=more.pop("phase", "Running"), pod_ips=tuple(map(objects.PodIP, ips)))
    return objects.Pod(metadata=objects.Metadata(name=name, namespace="shop"), spec=spec, status=status)


def test_a_node_without_prefixes_has_those_of_its_pods():
    bare = node("n3", "192.168.1.3")
    assert ipam.lacking([N1, bare]) == {"n3"}
    pods = [
        pod("a", "n3", "10.4.0.7", "fd00:4::7"),
        pod("host", "n3", "192.168.1.3", host_network=True),
        pod("done", "n3", "10.4.0.8", phase="Succeeded"),
        pod("failed", "n3", "10.4.0.9", phase="Failed"),
        pod("waits", None),
        pod("elsewhere", "n1", "10.9.1.5"),
    ]
    found = ipam.from_pods(map(ipam.pod_addresses, pods))
    made = plan(LOCAL, [peer([N1, bare], found)])["west"]
    assert made.nodes["west.n1"].spec.pod_cidrs == ("10.9.1.0/24",)
    assert made.nodes["west.n3"].spec.pod_cidrs == ("10.4.0.7/32", "fd00:4::7/128")
    assert made.nodes["west.n3"].spec.tunnel_addresses == ()  # a pod's address is never a node's
    assert made.refused.total == 0
