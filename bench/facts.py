"""Remote nodes by the thousand, as the controller would write them: always the same for the same number."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from clustermeshd.kube.objects import Metadata, RemoteNode, RemoteNodeSpec
from clustermeshd.model.addresses import tunnel_address, vtep_mac
from clustermeshd.plan.overlay_local import LocalNode

_CLUSTERS = 10
_UNDERLAY = int(ip_address("172.16.0.10"))
_PODS = int(ip_address("10.128.0.0"))
LOCAL_CLUSTER = "00000000-0000-4000-8000-0000000000ff"


def local() -> LocalNode:
    """The node of ``site.node``."""
    cidr = ip_network("100.64.1.0/24")
    tunnel = tunnel_address(cidr)
    return LocalNode("node1", LOCAL_CLUSTER, (ip_address("10.90.1.2"),), (cidr,), (tunnel,) if tunnel else ())


def remotes(count: int, first: int = 0) -> tuple[RemoteNode, ...]:
    """``count`` remote nodes of ten clusters with one /24 each, from number ``first`` on."""
    return tuple(_remote(number) for number in range(first, first + count))


def _remote(number: int) -> RemoteNode:
    cluster = f"cluster-{number % _CLUSTERS}"
    identity = f"00000000-0000-4000-8000-{number % _CLUSTERS:012x}"
    name = f"node-{number:05}.{cluster}.example.com"
    network = ip_network((_PODS + 256 * number, 24))
    spec = RemoteNodeSpec(
        cluster_id=identity,
        cluster_name=cluster,
        node_name=name,
        overlay_routing_mode="Enabled",
        addresses=(str(ip_address(_UNDERLAY + number)),),
        pod_cidrs=(str(network),),
        tunnel_addresses=(str(network.network_address),),
        vtep_mac=vtep_mac(identity, name),
    )
    return RemoteNode(metadata=Metadata(name=f"{cluster}.{name}"), spec=spec)
