"""Addresses as the mesh uses them: pure functions on ``ipaddress`` values."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NewType, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
MacAddress = NewType("MacAddress", str)


def vtep_mac(cluster_id: str, node: str) -> MacAddress:
    """Locally administered unicast MAC of a node's tunnel end: same input, same address, on every node of the mesh.

    The cluster id is part of the hash, so that node names need not be unique across clusters (with Calico's formula
    they must be: felix/calc/vxlan_resolver.go).
    """
    digest = hashlib.sha256(f"{cluster_id}/{node}".encode()).digest()[:5]
    return MacAddress(":".join(f"{byte:02x}" for byte in (0x0E, *digest)))


def tunnel_address(pod_cidr: Network) -> Address:
    """Network address of a pod CIDR: what host traffic of its node carries in the mesh (flannel's convention)."""
    return pod_cidr.network_address


def parse_address(text: str) -> Address | None:
    """Address of ``text``, or None where it is none; zone ids and mapped IPv4 are refused."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped):
        return None
    return address


def parse_network(text: str) -> Network | None:
    """Network of ``text`` in CIDR form without host bits, or None where it is none."""
    try:
        network = ip_network(text, strict=True)
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and (network.network_address.scope_id or network.network_address.ipv4_mapped):
        return None
    return network


def overlaps(a: Network, b: Network) -> bool:
    """Whether two networks share an address; networks of different families never do."""
    return a.version == b.version and a.overlaps(b)
