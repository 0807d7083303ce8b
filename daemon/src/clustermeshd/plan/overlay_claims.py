"""Who owns which remote prefix: claims of remote nodes, checked against local facts and against each other.

The controller refuses bad claims before an agent sees them; an agent checks again what could cut its own node off,
because it alone knows this node's addresses. Two clusters never share an address; within one cluster a longer prefix
may lie inside another node's (Calico lends single addresses of a block), but no prefix has two owners.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clustermeshd.kube.objects import RemoteNode
from clustermeshd.model.addresses import Address, Network, overlaps, parse_address, parse_network


@dataclass(frozen=True, slots=True)
class Problem:
    """An input that was not programmed, or a fact that needs a human. ``reason`` is stable CamelCase."""

    reason: str
    object: str
    message: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A remote node with parsed addresses."""

    name: str  # of the RemoteNode
    cluster_id: str
    cluster_name: str
    node: str
    has_overlay: bool
    addresses: tuple[Address, ...]
    prefixes: tuple[Network, ...]  # pod CIDRs, then tunnel addresses that lie in none of them
    tunnel_addresses: tuple[Address, ...]
    mac: bytes


def parse_peer(remote: RemoteNode, problems: list[Problem]) -> Peer:
    """A RemoteNode in typed form; parts that are no addresses become problems."""
    spec = remote.spec
    cidrs = [network for text in spec.pod_cidrs if (network := _network(remote, text, problems)) is not None]
    tunnels = [address for text in spec.tunnel_addresses if (address := _address(remote, text, problems)) is not None]
    outside = [_single(address) for address in tunnels if not any(address in cidr for cidr in cidrs)]
    return Peer(
        name=remote.metadata.name,
        cluster_id=spec.cluster_id,
        cluster_name=spec.cluster_name,
        node=spec.node_name,
        has_overlay=spec.overlay_routing_mode == "Enabled",
        addresses=tuple(found for text in spec.addresses if (found := _address(remote, text, problems)) is not None),
        prefixes=tuple(dict.fromkeys(cidrs + outside)),
        tunnel_addresses=tuple(tunnels),
        mac=_mac(spec.vtep_mac),
    )


def by_precedence(remotes: Iterable[RemoteNode]) -> list[RemoteNode]:
    """Oldest first, then by name: who wins a contested prefix, on every node and after every restart the same."""
    unique = {remote.metadata.name: remote for remote in remotes}
    return sorted(unique.values(), key=lambda remote: (remote.metadata.creation_timestamp or "", remote.metadata.name))


def admit(
    peers: Sequence[Peer], local_cidrs: Sequence[Network], underlay: Iterable[Address], problems: list[Problem]
) -> dict[str, tuple[Network, ...]]:
    """Prefixes of each peer (by name) that may be programmed; ``peers`` in order of precedence."""
    points = {version: sorted(int(a) for a in underlay if a.version == version) for version in (4, 6)}
    claims: list[tuple[Network, int]] = []
    for rank, peer in enumerate(peers):
        for prefix in peer.prefixes:
            problem = _local_conflict(prefix, local_cidrs, points[prefix.version])
            if problem:
                problems.append(Problem(problem[0], peer.name, f"{prefix} {problem[1]}"))
            else:
                claims.append((prefix, rank))
    admitted: dict[str, list[Network]] = {peer.name: [] for peer in peers}
    for group in _overlapping_groups(claims):
        for prefix, rank in _winners(group, peers, problems):
            admitted[peers[rank].name].append(prefix)
    order = {peer.name: {prefix: place for place, prefix in enumerate(peer.prefixes)} for peer in peers}
    return {name: tuple(sorted(prefixes, key=order[name].__getitem__)) for name, prefixes in admitted.items()}


def outermost(networks: Iterable[Network]) -> list[Network]:
    """Networks that lie in no other of them: what an interval set holds."""
    kept: list[Network] = []
    for network in sorted(set(networks), key=lambda n: (n.version, int(n.network_address), n.prefixlen)):
        if not kept or not overlaps(kept[-1], network):
            kept.append(network)
    return kept


def _local_conflict(prefix: Network, local: Sequence[Network], underlay: Sequence[int]) -> tuple[str, str] | None:
    if prefix.is_loopback or prefix.is_link_local or prefix.is_multicast or prefix.prefixlen == 0:
        return "ReservedPrefix", "can be no pod prefix"
    own = next((cidr for cidr in local if overlaps(cidr, prefix)), None)
    if own is not None:
        return "OverlapsLocal", f"overlaps {own} of this node, which stays local"
    place = bisect_left(underlay, int(prefix.network_address))
    if place < len(underlay) and underlay[place] <= int(prefix.broadcast_address):
        return "CoversUnderlay", "contains a node address: tunnel packets would be routed into the tunnel"
    return None


def _overlapping_groups(claims: Iterable[tuple[Network, int]]) -> Iterable[list[tuple[Network, int]]]:
    """Claims whose prefixes touch, together; nearly every group is a single claim."""
    ordered = sorted(claims, key=lambda c: (c[0].version, int(c[0].network_address), c[0].prefixlen, c[1]))
    group: list[tuple[Network, int]] = []
    for claim in ordered:
        if group and not overlaps(group[0][0], claim[0]):
            yield group
            group = []
        group.append(claim)
    if group:
        yield group


def _winners(
    group: list[tuple[Network, int]], peers: Sequence[Peer], problems: list[Problem]
) -> list[tuple[Network, int]]:
    if len(group) == 1:
        return group
    kept: list[tuple[Network, int]] = []
    for prefix, rank in sorted(group, key=lambda claim: (claim[1], claim[0].prefixlen)):
        winner = next((other for other in kept if _contest(prefix, peers[rank], other[0], peers[other[1]])), None)
        if winner is None:
            kept.append((prefix, rank))
        else:
            message = f"{prefix} overlaps {winner[0]} of {peers[winner[1]].name}, which claimed it first"
            problems.append(Problem("OverlapsRemote", peers[rank].name, message))
    return kept


def _contest(prefix: Network, peer: Peer, other_prefix: Network, other: Peer) -> bool:
    if peer.cluster_id != other.cluster_id:
        return overlaps(prefix, other_prefix)
    return prefix == other_prefix


def _network(remote: RemoteNode, text: str, problems: list[Problem]) -> Network | None:
    network = parse_network(text)
    if network is None:
        problems.append(Problem("InvalidPrefix", remote.metadata.name, f"pod CIDR {text[:64]!r} is no prefix"))
    return network


def _address(remote: RemoteNode, text: str, problems: list[Problem]) -> Address | None:
    address = parse_address(text)
    if address is None:
        problems.append(Problem("InvalidAddress", remote.metadata.name, f"{text[:64]!r} is no address"))
    return address


def _single(address: Address) -> Network:
    network = parse_network(f"{address}/{address.max_prefixlen}")
    assert network is not None  # noqa: S101  # an address with its full length is a network
    return network


def _mac(text: str) -> bytes:
    """Packed unicast MAC; empty where the text is none."""
    try:
        mac = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return b""
    return mac if len(mac) == 6 and not mac[0] & 1 and any(mac) else b""
