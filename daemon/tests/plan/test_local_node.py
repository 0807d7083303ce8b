"""This node's facts: which prefixes its pods have, and which address its host traffic carries."""

from ipaddress import ip_address, ip_network

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.plan.overlay_local import local_node


def node(*cidrs, tunnel=None):
    annotations = {names.CALICO_TUNNEL_ADDRESS_V4: tunnel} if tunnel else None
    return objects.Node(
        metadata=objects.Metadata(name="n1", annotations=annotations), spec=objects.NodeSpec(pod_cidrs=cidrs)
    )


def test_without_word_of_the_controller_the_node_object_counts():
    local = local_node(node("10.1.2.0/24", "fd00:1::/64"), "c")
    assert local.pod_cidrs == (ip_network("10.1.2.0/24"), ip_network("fd00:1::/64"))
    assert local.tunnel_addresses == (ip_address("10.1.2.0"), ip_address("fd00:1::"))


def test_what_the_controller_tells_replaces_the_node_object_and_leaves_no_network_address_free():
    told = ("10.5.0.64/26", "10.5.0.0/26", "10.9.0.7/32", "fd00:5::/122")
    local = local_node(node("10.1.2.0/24"), "c", told)
    assert local.pod_cidrs == (ip_network("10.5.0.0/25"), ip_network("10.9.0.7/32"), ip_network("fd00:5::/122"))
    assert local.tunnel_addresses == ()


def test_calico_s_tunnel_address_counts_either_way():
    assert local_node(node("10.1.2.0/24", tunnel="10.5.0.1"), "c").tunnel_addresses == (ip_address("10.5.0.1"),)
    told = local_node(node(tunnel="10.5.0.1"), "c", ("10.5.0.0/26",))
    assert told.tunnel_addresses == (ip_address("10.5.0.1"),)
