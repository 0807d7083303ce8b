"""Which prefixes and addresses of a remote cluster may enter ours.

A peer is not trusted beyond what its RemoteClusterConfiguration admits: a Node object of a hostile or misconfigured
cluster must never attract traffic that is ours, another peer's or nobody's. Local always wins, then the peer that was
configured first; what is refused today is admitted by itself when its obstacle goes, since nothing is remembered.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network

from clustermeshd.model.addresses import Address, Network, parse_network

_RESERVED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(cidr), what)
    for cidr, what in (
        ("0.0.0.0/8", "the unspecified network (RFC 1122)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("169.254.0.0/16", "link-local and cloud metadata (RFC 3927)"),
        ("224.0.0.0/4", "multicast (RFC 5771)"),
        ("240.0.0.0/4", "reserved and broadcast (RFC 1112)"),
        ("100.100.100.200/32", "a cloud metadata address"),
        ("::/127", "the unspecified address and loopback (RFC 4291)"),
        ("::ffff:0:0/96", "IPv4-mapped addresses (RFC 4291)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("ff00::/8", "multicast (RFC 4291)"),
        ("fd00:ec2::254/128", "a cloud metadata address"),
    )
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a claim was not admitted; ``reason`` is a stable word, ``message`` says what collides with what."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class LocalNetworks:
    """What is ours and never a peer's."""

    pod_cidrs: tuple[Network, ...] = ()
    service_cidrs: tuple[Network, ...] = ()
    node_addresses: tuple[Address, ...] = ()

    def collision(self, network: Network) -> Refusal | None:
        """The first thing of ours that ``network`` overlaps."""
        for ours, what in (*((n, "pod") for n in self.pod_cidrs), *((n, "service") for n in self.service_cidrs)):
            if ours.version == network.version and ours.overlaps(network):
                return Refusal("OverlapsLocal", f"{network} overlaps the local {what} CIDR {ours}")
        for address in self.node_addresses:
            if address.version == network.version and address in network:
                return Refusal("OverlapsLocal", f"{network} contains the local node address {address}")
        return None


def reserved(network: Network) -> Refusal | None:
    """Refusal of a network that touches a range no cluster may claim (0.0.0.0/0 and ::/0 touch several)."""
    for special, what in _RESERVED:
        if special.version == network.version and special.overlaps(network):
            return Refusal("Reserved", f"{network} overlaps {special}: {what}")
    return None


@dataclass(slots=True)
class ClaimedNetworks:
    """Networks that were admitted so far, no two of which overlap, each with its owner; look-up is logarithmic."""

    _starts: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: {4: [], 6: []})
    _owners: dict[tuple[int, int], str] = field(default_factory=dict)

    def overlapping(self, network: Network) -> str | None:
        """Owner of an admitted network that ``network`` overlaps."""
        first, last = _bounds(network)
        intervals = self._starts[network.version]
        index = bisect_right(intervals, (last, 1 << 129))
        if index == 0:
            return None
        start, end = intervals[index - 1]
        return self._owners[(network.version, start)] if end >= first else None

    def claim(self, network: Network, owner: str) -> str | None:
        """Admits ``network`` for ``owner``; returns the owner of what it overlaps instead, if any."""
        holder = self.overlapping(network)
        if holder is None:
            first, last = _bounds(network)
            insort(self._starts[network.version], (first, last))
            self._owners[(network.version, first)] = owner
        return holder


def _bounds(network: Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Prefixes that a peer's import rules name; None admits any."""

    pod_cidrs: tuple[Network, ...] | None = None
    node_cidrs: tuple[Network, ...] | None = None

    def pods(self, network: Network) -> Refusal | None:
        return _inside(network, self.pod_cidrs, "spec.import.podCIDRs")

    def nodes(self, network: Network) -> Refusal | None:
        return _inside(network, self.node_cidrs, "spec.import.nodeCIDRs")


def allowed(pod_cidrs: Iterable[str] | None, node_cidrs: Iterable[str] | None) -> Allowed:
    """Import rules as networks; an entry that is no CIDR admits nothing (the CRD refuses it at the door)."""
    return Allowed(_parsed(pod_cidrs), _parsed(node_cidrs))


def _parsed(cidrs: Iterable[str] | None) -> tuple[Network, ...] | None:
    return None if cidrs is None else tuple(n for n in map(parse_network, cidrs) if n is not None)


def _inside(network: Network, rules: tuple[Network, ...] | None, where: str) -> Refusal | None:
    if rules is None or any(
        rule.version == network.version and network.subnet_of(rule)  # type: ignore[arg-type]
        for rule in rules
    ):
        return None
    return Refusal("NotAllowed", f"{network} lies in none of {where} ({', '.join(map(str, rules)) or 'empty'})")
