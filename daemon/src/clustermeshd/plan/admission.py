"""Which prefixes and addresses of a remote cluster may enter ours.

A peer is not trusted beyond what its RemoteClusterConfiguration admits: a Node object of a hostile or misconfigured
cluster must never attract traffic that is ours, another peer's or nobody's. Local always wins, then the peer whose
claim was accepted first; what is refused today is admitted by itself when its obstacle goes: no refusal is remembered.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from typing import Final

from clustermeshd.kube.objects import ImportRules, Service
from clustermeshd.model.addresses import (
    BITS,
    Address,
    Network,
    Point,
    Prefix,
    parse_point,
    parse_prefix,
    point_of,
    prefix_of,
)
from clustermeshd.model.errors import Refused

MAX_NAME: Final = 253
_UID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_RESERVED: Final = tuple(
    (prefix_of(ip_network(cidr)), f"{cidr}: {what}")
    for cidr, what in (
        ("0.0.0.0/8", "the unspecified network (RFC 1122)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("169.254.0.0/16", "link-local and cloud metadata (RFC 3927)"),
        ("224.0.0.0/4", "multicast (RFC 5771)"),
        ("240.0.0.0/4", "reserved and broadcast (RFC 1112)"),
        ("100.100.100.200/32", "a cloud metadata address (Alibaba)"),
        ("168.63.129.16/32", "a cloud metadata address (Azure)"),
        ("192.0.0.192/32", "a cloud metadata address (Oracle)"),
        ("::/127", "the unspecified address and loopback (RFC 4291)"),
        ("::ffff:0:0/96", "IPv4-mapped addresses (RFC 4291)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("ff00::/8", "multicast (RFC 4291)"),
        ("fd00:ec2::254/128", "a cloud metadata address (AWS)"),
    )
)
_RESERVED_RANGES: Final = {
    family: tuple((prefix.low, prefix.high, what) for prefix, what in _RESERVED if prefix.family == family)
    for family in BITS
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a claim was not admitted; ``reason`` is a stable word, ``message`` says what collides with what."""

    reason: str
    message: str


def identity(cluster_id: str, where: str) -> None:
    """Raises Refused for what is no UID: everything that has none would be one cluster."""
    if not _UID.fullmatch(cluster_id):
        found = f"the UID of its namespace kube-system is {cluster_id[:64]!r}"
        raise Refused("InvalidIdentity", found, where=where, fix="is this a Kubernetes API server?")


@lru_cache(maxsize=8192)
def is_subdomain(text: str) -> bool:
    """RFC 1123 subdomain, what Kubernetes calls a node: each part of it a label."""
    return (
        0 < len(text) <= MAX_NAME
        and text.isascii()
        and text == text.lower()
        and all(
            part and part.replace("-", "a").isalnum() and part[0] != "-" and part[-1] != "-"
            for part in text.split(".")
        )
    )


def host_prefix(point: Point) -> Prefix:
    """The prefix of one address."""
    return Prefix(point.family, point.number, BITS[point.family])


class Holders:
    """Who holds which address; of prefixes that lie in each other the outermost counts. Look-up is logarithmic."""

    def __init__(self, held: Iterable[tuple[Prefix, str]] = ()) -> None:
        self._held: list[tuple[Prefix, str]] = []
        self._lows: list[tuple[int, int]] = []
        self.add(held)

    def __eq__(self, other: object) -> bool:
        return self._held == other._held if isinstance(other, Holders) else NotImplemented

    def add(self, held: Iterable[tuple[Prefix, str]]) -> None:
        """Linear in everything held: to be called once a cluster, not once a prefix."""
        outermost: list[tuple[Prefix, str]] = []
        family = end = -1
        for entry in sorted([*self._held, *held]):
            prefix = entry[0]
            if prefix.low > end or prefix.family != family:
                outermost.append(entry)
                family, end = prefix.family, prefix.high
        self._held = outermost
        self._lows = [(prefix.family, prefix.low) for prefix, _ in outermost]

    def overlapping(self, prefix: Prefix) -> tuple[Prefix, str] | None:
        """The last prefix held that ``prefix`` overlaps, and its holder."""
        index = bisect_right(self._lows, (prefix.family, prefix.high)) - 1
        if index >= 0 and self._held[index][0].overlaps(prefix):
            return self._held[index]
        return None


class LocalNetworks:
    """What is ours and never a peer's."""

    def __init__(
        self,
        pod_cidrs: Iterable[Network] = (),
        service_cidrs: Iterable[Network] = (),
        node_addresses: Iterable[Address] = (),
        service_addresses: Iterable[Point] = (),
    ) -> None:
        """``service_addresses``: before Kubernetes 1.33 nothing tells which CIDRs Services have."""
        pods = [(prefix_of(cidr), "pod") for cidr in pod_cidrs]
        self._cidrs = Holders(pods + [(prefix_of(cidr), "service") for cidr in service_cidrs])
        self._addresses = sorted(map(point_of, node_addresses))
        self._services = sorted({p for p in service_addresses if self._cidrs.overlapping(host_prefix(p)) is None})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LocalNetworks):
            return NotImplemented
        ours, theirs = (self._cidrs, self._addresses), (other._cidrs, other._addresses)
        return ours == theirs and self._services == other._services

    def collision(self, prefix: Prefix) -> Refusal | None:
        """Refusal of what overlaps something of ours."""
        found = self._cidrs.overlapping(prefix)
        if found is not None:
            return Refusal("OverlapsLocal", f"{prefix} overlaps the local {found[1]} CIDR {found[0]}")
        address = first_inside(self._addresses, prefix)
        if address is not None:
            return Refusal("OverlapsLocal", f"{prefix} contains the local node address {address}")
        address = first_inside(self._services, prefix)
        if address is not None:
            return Refusal("OverlapsLocal", f"{prefix} contains {address}, the address of a local Service")
        return None


def cluster_ips(service: Service) -> tuple[Point, ...]:
    """Addresses of a Service; none of a headless one."""
    texts = service.spec.cluster_ips or (service.spec.cluster_ip or "",)
    return tuple(point for point in map(parse_point, texts) if point is not None)


def first_inside(points: list[Point], prefix: Prefix) -> Point | None:
    """The first of sorted ``points`` that lies in ``prefix``."""
    place = bisect_left(points, (prefix.family, prefix.low))
    return points[place] if place < len(points) and prefix.holds(points[place]) else None


def reserved(prefix: Prefix) -> Refusal | None:
    """Refusal of a prefix that touches a range no cluster may claim (0.0.0.0/0 and ::/0 touch several)."""
    low, high = prefix.low, prefix.high
    for first, last, what in _RESERVED_RANGES[prefix.family]:
        if first <= high and low <= last:
            return Refusal("Reserved", f"{prefix} overlaps {what}")
    return None


@dataclass(frozen=True, slots=True)
class Allowed:
    """Prefixes that a peer's import rules name; None admits any."""

    pod_cidrs: tuple[Prefix, ...] | None = None
    node_cidrs: tuple[Prefix, ...] | None = None
    service_cidrs: tuple[Prefix, ...] = ()

    def pods(self, prefix: Prefix) -> Refusal | None:
        return _inside(prefix, self.pod_cidrs, "spec.import.podCIDRs")

    def nodes(self, prefix: Prefix) -> Refusal | None:
        return _inside(prefix, self.node_cidrs, "spec.import.nodeCIDRs")

    def endpoint(self, point: Point) -> bool:
        """Whether an endpoint may have an address, whoever of the peer's has it."""
        prefix = host_prefix(point)
        is_service = any(rule.holds(point) for rule in self.service_cidrs)
        return is_service or self.pods(prefix) is None or self.nodes(prefix) is None


def allowed(rules: ImportRules) -> Allowed:
    """Import rules as prefixes; an entry that is no CIDR admits nothing (the CRD refuses it at the door)."""
    return Allowed(_parsed(rules.pod_cidrs), _parsed(rules.node_cidrs), _parsed(rules.service_cidrs) or ())


def _parsed(cidrs: Iterable[str] | None) -> tuple[Prefix, ...] | None:
    return None if cidrs is None else tuple(p for p in map(parse_prefix, cidrs) if p is not None)


def _inside(prefix: Prefix, rules: tuple[Prefix, ...] | None, where: str) -> Refusal | None:
    if rules is None or any(
        rule.family == prefix.family and rule.low <= prefix.low and prefix.high <= rule.high for rule in rules
    ):
        return None
    return Refusal("NotAllowed", f"{prefix} lies in none of {where} ({', '.join(map(str, rules)) or 'empty'})")
