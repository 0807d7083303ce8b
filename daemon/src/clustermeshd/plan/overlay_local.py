"""This node: its facts, and where tunnel packets leave it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import collapse_addresses
from typing import TypeVar

from clustermeshd.kube.objects import Node
from clustermeshd.model import names
from clustermeshd.model.addresses import Address, Network, parse_address, parse_network, tunnel_address

AnyT = TypeVar("AnyT", Address, Network)
_FAMILIES = (4, 6)


@dataclass(frozen=True, slots=True)
class LocalNode:
    """This node, as its own API server knows it."""

    name: str
    cluster_id: str
    addresses: tuple[Address, ...]  # InternalIPs
    pod_cidrs: tuple[Network, ...]
    tunnel_addresses: tuple[Address, ...]  # at most one per family

    def tunnel_address(self, family: int) -> Address | None:
        return of_family(self.tunnel_addresses, family)


def local_node(node: Node, cluster_id: str, told: Sequence[str] = ()) -> LocalNode:
    """This node's facts. Tunnel addresses: Calico's where it gave one, else the first pod CIDR's network address.

    ``told``: prefixes of its pods that the controller knows of; then Node.spec.podCIDRs do not count, and no network
    address is free, since their IPAM gives every address of a prefix to pods.
    """
    texts = told or node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
    cidrs = tuple(network for text in texts if (network := parse_network(text)) is not None)
    if told:
        cidrs = tuple(merged for family in _FAMILIES for merged in _merged(cidrs, family))
    internal = [entry.address for entry in node.status.addresses or () if entry.type == "InternalIP"]
    calico = (names.CALICO_TUNNEL_ADDRESS_V4, names.CALICO_TUNNEL_ADDRESS_V6)
    given = [address for key in calico if (address := parse_address(node.annotations.get(key, ""))) is not None]
    tunnels = []
    for family in _FAMILIES:
        cidr = of_family(cidrs, family)
        chosen = of_family(given, family) or (tunnel_address(cidr) if cidr and not told else None)
        tunnels += [chosen] if chosen else []
    addresses = tuple(address for text in internal if (address := parse_address(text)) is not None)
    return LocalNode(node.metadata.name, cluster_id, addresses, cidrs, tuple(tunnels))


def _merged(networks: Iterable[Network], family: int) -> Iterable[Network]:
    """The same addresses by as few networks as can be."""
    return collapse_addresses(n for n in networks if n.version == family)  # type: ignore[type-var]


def of_family(values: Iterable[AnyT], family: int) -> AnyT | None:
    """The first of that family."""
    return next((value for value in values if value.version == family), None)
