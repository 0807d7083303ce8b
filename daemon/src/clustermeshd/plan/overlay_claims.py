"""Who owns which remote prefix: claims of remote nodes, checked against local facts and against each other.

The controller refuses bad claims before an agent sees them; an agent checks again what could cut its own node off,
because it alone knows this node's addresses. Two clusters never share an address; within one cluster a longer prefix
may lie inside another node's (Calico lends single addresses of a block), but no prefix has two owners.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from clustermeshd.kube.objects import RemoteNode
from clustermeshd.model.addresses import BITS, Point, Prefix, parse_point, parse_prefix, vtep_mac


class Problem(NamedTuple):
    """An input that was not programmed, or a fact that needs a human. ``reason`` is stable CamelCase.

    ``cluster`` is that of a remote node that is not programmed at all.
    """

    reason: str
    object: str
    message: str
    cluster: str = ""


class Peer(NamedTuple):
    """A remote node with parsed addresses."""

    name: str  # of the RemoteNode
    cluster_id: str
    cluster_name: str
    node: str
    has_overlay: bool
    addresses: tuple[Point, ...]
    prefixes: tuple[Prefix, ...]  # pod CIDRs, then tunnel addresses that lie in none of them
    tunnel_addresses: tuple[Point, ...]
    mac: bytes


_RESERVED: Final = tuple(
    prefix
    for text in ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/10", "ff00::/8")
    if (prefix := parse_prefix(text)) is not None
)
_RESERVED_RANGES: Final = {
    family: tuple((prefix.low, prefix.high) for prefix in _RESERVED if prefix.family == family) for family in (4, 6)
}


def parse_peer(remote: RemoteNode, problems: list[Problem]) -> Peer:
    """A RemoteNode in typed form; parts that are no addresses become problems."""
    spec = remote.spec
    name = remote.metadata.name
    cidrs = [prefix for text in spec.pod_cidrs if (prefix := _prefix(name, text, problems)) is not None]
    tunnels = _points(name, spec.tunnel_addresses, problems)
    outside = [
        Prefix(point.family, point.number, BITS[point.family])
        for point in tunnels
        if not any(cidr.holds(point) for cidr in cidrs)
    ]
    prefixes = cidrs + outside
    return Peer(
        name=name,
        cluster_id=spec.cluster_id,
        cluster_name=spec.cluster_name,
        node=spec.node_name,
        has_overlay=spec.overlay_routing_mode == "Enabled",
        addresses=_points(name, spec.addresses, problems),
        prefixes=tuple(dict.fromkeys(prefixes)) if len(prefixes) > 1 else tuple(prefixes),
        tunnel_addresses=tunnels,
        mac=_mac(spec.vtep_mac) or packed_mac(vtep_mac(spec.cluster_id, spec.node_name)),
    )


def by_precedence(remotes: Iterable[RemoteNode]) -> list[RemoteNode]:
    """Oldest first, then by name: who wins a contested prefix, on every node and after every restart the same."""
    unique = {remote.metadata.name: remote for remote in remotes}
    return sorted(unique.values(), key=lambda remote: (remote.metadata.creation_timestamp or "", remote.metadata.name))


def admit(
    peers: Sequence[Peer], local: Sequence[Prefix], underlay: Iterable[Point], problems: list[Problem]
) -> dict[str, tuple[Prefix, ...]]:
    """Prefixes of each peer (by name) that may be programmed; ``peers`` in order of precedence."""
    points = sorted(underlay)
    claims: list[tuple[Prefix, int]] = []
    for rank, peer in enumerate(peers):
        for prefix in peer.prefixes:
            problem = local_conflict(prefix, local, points)
            if problem:
                problems.append(Problem(problem[0], peer.name, f"{prefix} {problem[1]}"))
            else:
                claims.append((prefix, rank))
    claims.sort()
    refused = {loser for group in _overlapping_groups(claims) for loser in _losers(group, peers, problems)}
    if len(claims) == sum(len(peer.prefixes) for peer in peers) and not refused:
        return {peer.name: peer.prefixes for peer in peers}
    accepted = set(claims) - refused
    return {
        peer.name: tuple(prefix for prefix in peer.prefixes if (prefix, rank) in accepted)
        for rank, peer in enumerate(peers)
    }


def local_conflict(prefix: Prefix, local: Sequence[Prefix], underlay: Sequence[Point]) -> tuple[str, str] | None:
    """Reason and words where a prefix may not be routed away; ``underlay`` holds sorted node addresses."""
    family, low, length = prefix
    high = prefix.high
    if length == 0:
        return "ReservedPrefix", "can be no pod prefix"
    for first, last in _RESERVED_RANGES[family]:
        if first <= high and low <= last:
            return "ReservedPrefix", "can be no pod prefix"
    for own in local:
        if own.overlaps(prefix):
            return "OverlapsLocal", f"overlaps {own} of this node, which stays local"
    place = bisect_left(underlay, (family, low))
    if place < len(underlay) and underlay[place] <= (family, high):
        return "CoversUnderlay", "contains a node address: tunnel packets would be routed into the tunnel"
    return None


def outermost(prefixes: Collection[Prefix]) -> list[Prefix]:
    """Prefixes that lie in no other of them: what an interval set holds."""
    if len(prefixes) == 1:
        return list(prefixes)
    kept: list[Prefix] = []
    family = high = -1
    for prefix in sorted(prefixes):
        if prefix.family == family and prefix.low <= high:
            continue
        kept.append(prefix)
        family, high = prefix.family, prefix.high
    return kept


def packed_mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _overlapping_groups(claims: Sequence[tuple[Prefix, int]]) -> Iterable[list[tuple[Prefix, int]]]:
    """Claims whose prefixes touch, together, where there are at least two; ``claims`` in order."""
    start = 0
    family = high = -1
    for place, (prefix, _) in enumerate(claims):
        if prefix.family == family and prefix.low <= high:
            continue
        if place - start > 1:
            yield list(claims[start:place])
        start, family, high = place, prefix.family, prefix.high
    if len(claims) - start > 1:
        yield list(claims[start:])


def _losers(
    group: list[tuple[Prefix, int]], peers: Sequence[Peer], problems: list[Problem]
) -> Iterable[tuple[Prefix, int]]:
    kept: list[tuple[Prefix, int]] = []
    for prefix, rank in sorted(group, key=lambda claim: (claim[1], claim[0].length)):
        winner = next((other for other in kept if _contest(prefix, peers[rank], other[0], peers[other[1]])), None)
        if winner is None:
            kept.append((prefix, rank))
        else:
            message = f"{prefix} overlaps {winner[0]} of {peers[winner[1]].name}, which claimed it first"
            problems.append(Problem("OverlapsRemote", peers[rank].name, message))
            yield prefix, rank


def _contest(prefix: Prefix, peer: Peer, other_prefix: Prefix, other: Peer) -> bool:
    if peer.cluster_id != other.cluster_id:
        return prefix.overlaps(other_prefix)
    return prefix == other_prefix


def _prefix(name: str, text: str, problems: list[Problem]) -> Prefix | None:
    prefix = parse_prefix(text)
    if prefix is None:
        problems.append(Problem("InvalidPrefix", name, f"pod CIDR {text[:64]!r} is no prefix"))
    return prefix


def _points(name: str, texts: Iterable[str], problems: list[Problem]) -> tuple[Point, ...]:
    points = []
    for text in texts:
        point = parse_point(text)
        if point is None:
            problems.append(Problem("InvalidAddress", name, f"{text[:64]!r} is no address"))
        else:
            points.append(point)
    return tuple(points)


def _mac(text: str) -> bytes:
    """Packed unicast MAC; empty where the text is none."""
    try:
        mac = packed_mac(text)
    except ValueError:
        return b""
    return mac if len(mac) == 6 and not mac[0] & 1 and any(mac) else b""
