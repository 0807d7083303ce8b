"""Which pod prefixes the nodes of a cluster have, whoever manages addresses there.

Calico's IPAM writes blocks: a block belongs to the node of its affinity, and single addresses of it may be lent to
other nodes. Where a cluster has any block, blocks alone count, as for Calico's own route resolver; else
Node.spec.podCIDRs do, and for a node that has none of those the addresses of its pods.
(projectcalico/calico: felix/calc/l3_route_resolver.go, libcalico-go/lib/backend/model/block.go)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from clustermeshd.kube import objects
from clustermeshd.model.addresses import BITS, Prefix, parse_prefix

_HOST: Final = "host:"
_FINISHED: Final = ("Succeeded", "Failed")


class Block(objects.Object, frozen=True):
    """What routes need of an IPAM block: its node, and the addresses that other nodes have of it."""

    cidr: str = ""
    node: str = ""  # of its affinity; empty for none, or one that is no node (virtual:NAME, load balancers)
    lent: tuple[tuple[str, str], ...] = ()  # node and prefix of one address


class PodAddresses(objects.Object, frozen=True):
    """What routes need of a pod; no addresses for one on the host's network, not placed, or finished."""

    node: str = ""
    addresses: tuple[str, ...] = ()


def _bare(thing: objects.Object) -> objects.Metadata:
    meta = thing.metadata
    return objects.Metadata(name=meta.name, namespace=meta.namespace, resource_version=meta.resource_version)


def block(stored: objects.IPAMBlock) -> Block:
    """A block without the addresses that its own node has."""
    spec = stored.spec
    if spec.deleted:
        return Block(metadata=_bare(stored))
    affinity = spec.affinity or ""
    node = affinity.removeprefix(_HOST) if affinity.startswith(_HOST) else ""
    return Block(metadata=_bare(stored), cidr=spec.cidr, node=node, lent=tuple(_lent(spec, node)))


def _lent(spec: objects.IPAMBlockSpec, node: str) -> Iterable[tuple[str, str]]:
    cidr = parse_prefix(spec.cidr)
    users = [(attribute.secondary or {}).get("node", "") for attribute in spec.attributes or ()]
    if cidr is None or not any(user != node for user in users):
        return
    for ordinal, index in enumerate(spec.allocations or ()):
        user = users[index] if index is not None and 0 <= index < len(users) else ""
        number = cidr.low + ordinal
        if user and user != node and number <= cidr.high:
            yield user, str(Prefix(cidr.family, number, BITS[cidr.family]))


def pod_addresses(stored: objects.Pod) -> PodAddresses:
    """A pod as far as it needs routes."""
    spec, status = stored.spec, stored.status
    if spec.host_network or not spec.node_name or status.phase in _FINISHED:
        return PodAddresses(metadata=_bare(stored))
    addresses = tuple(ip.ip for ip in status.pod_ips or ())
    return PodAddresses(metadata=_bare(stored), node=spec.node_name, addresses=addresses)


@dataclass(frozen=True, slots=True)
class PodPrefixes:
    """Where the prefixes of a cluster's nodes come from, and what it says of each node."""

    source: str = "Node"  # or Block
    by_node: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, node: objects.Node) -> tuple[str, ...]:
        """Prefixes as text, as they were written."""
        own = () if self.source == "Block" else spec_cidrs(node)
        return own or self.by_node.get(node.metadata.name, ())


def spec_cidrs(node: objects.Node) -> tuple[str, ...]:
    return node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


def has_blocks(blocks: Iterable[Block]) -> bool:
    """Whether Calico's IPAM is at work."""
    return any(piece.cidr for piece in blocks)


def from_blocks(blocks: Iterable[Block]) -> PodPrefixes:
    """Prefixes of every node as the blocks tell: its blocks first, then what it has of others'."""
    own: defaultdict[str, list[str]] = defaultdict(list)
    lent: defaultdict[str, list[str]] = defaultdict(list)
    for piece in sorted(blocks, key=lambda b: b.metadata.name):
        if piece.cidr and piece.node:
            own[piece.node].append(piece.cidr)
        for node, prefix in piece.lent:
            lent[node].append(prefix)
    return PodPrefixes("Block", {node: (*own[node], *lent[node]) for node in {*own, *lent}})


def from_pods(pods: Iterable[PodAddresses]) -> PodPrefixes:
    """Addresses of pods by node, for the nodes that have no prefixes."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for pod in pods:
        found[pod.node].update(pod.addresses)
    return PodPrefixes("Node", {node: tuple(sorted(texts)) for node, texts in found.items()})


def lacking(nodes: Iterable[objects.Node]) -> frozenset[str]:
    """Nodes whose pods' addresses must be known one by one, where there are no blocks."""
    return frozenset(node.metadata.name for node in nodes if not spec_cidrs(node))
