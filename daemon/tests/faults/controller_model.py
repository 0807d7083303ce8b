"""What a mesh must look like, computed from the raw objects of all API servers and nothing of our own code.

A snapshot is the JSON of one cluster: kind -> objects. Selectors are ``&&`` of ``key == "value"``, ``key != "value"``,
``has(key)`` and ``all()``: all that these tests write.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

Json = dict[str, Any]
Snapshot = Mapping[str, list[Json]]

ANNOTATION = "federation.tigera.io/serviceSelector"
CLUSTER = "federation.tigera.io/remoteClusterName"
OWNER = "kubernetes.io/service-name"
MANAGER = "endpointslice.kubernetes.io/managed-by"
OURS = "federation.clustermesh.io"
FROM = "clustermesh.io/remote-cluster"
RESERVED = [
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "100.100.100.200/32")
]


class Entry(NamedTuple):
    """One endpoint of a federated Service on one port; ``cluster`` is "" for our own."""

    service: str  # namespace/name
    cluster: str
    address: str
    port_name: str
    port: int
    protocol: str
    is_ready: bool


def wanted(local: Snapshot, peers: Mapping[str, Snapshot]) -> set[Entry]:
    """Endpoints that the federated Services of the local cluster must have.

    ``peers`` in the order in which their claims were accepted: of those that these tests write that of their age.
    """
    owned = _owned(local, peers)
    return {
        entry
        for service in local["Service"]
        if _is_federated(service)
        for cluster, snapshot in [("", local), *peers.items()]
        for entry in _from(service, cluster, snapshot)
        if not cluster or _lies_in(entry.address, owned[cluster])
    }


def wanted_nodes(local: Snapshot, peers: Mapping[str, Snapshot]) -> dict[str, set[str]]:
    """RemoteNodes that must exist, with their pod prefixes."""
    owned = _owned(local, peers)
    return {
        f"{cluster}.{node['metadata']['name']}": {c for c in _cidrs(node) if ipaddress.ip_network(c) in owned[cluster]}
        for cluster, snapshot in peers.items()
        for node in snapshot["Node"]
        if any(net in owned[cluster] for net in _addresses(node))
    }


def written(slices: Iterable[Json]) -> list[Entry]:
    """What the slices of ours say; an endpoint that stands in two of them comes twice."""
    return sorted(
        entry
        for piece in slices
        if piece["metadata"].get("labels", {}).get(MANAGER) == OURS
        for entry in _entries(
            f"{piece['metadata']['namespace']}/{piece['metadata']['labels'][OWNER]}",
            piece["metadata"]["labels"].get(FROM, ""),
            piece,
        )
    )


def _entries(service: str, cluster: str, piece: Json) -> Iterator[Entry]:
    for endpoint in piece.get("endpoints") or ():
        ready = endpoint.get("conditions", {}).get("ready") is not False
        for address in endpoint["addresses"]:
            for port in piece.get("ports") or ():
                yield Entry(service, cluster, address, port.get("name", ""), port["port"], port["protocol"], ready)


def _is_federated(service: Json) -> bool:
    spec = service["spec"]
    return _selector(service) is not None and not spec.get("selector") and spec.get("type") != "ExternalName"


def _selector(service: Json) -> str | None:
    return service["metadata"].get("annotations", {}).get(ANNOTATION)


def _from(service: Json, cluster: str, snapshot: Snapshot) -> Iterator[Entry]:
    meta = service["metadata"]
    ports = {(p.get("name", ""), p["protocol"]) for p in service["spec"]["ports"]}
    implied = {CLUSTER: cluster} if cluster else {}
    backing = {
        s["metadata"]["name"]
        for s in snapshot["Service"]
        if s["metadata"]["namespace"] == meta["namespace"]
        and _selector(s) is None
        and matches(_selector(service) or "", {**s["metadata"].get("labels", {}), **implied})
    }
    for piece in snapshot["EndpointSlice"] if backing else ():
        here = piece["metadata"]
        if here["namespace"] != meta["namespace"] or here.get("labels", {}).get(OWNER) not in backing:
            continue
        if piece["addressType"] not in service["spec"].get("ipFamilies", ["IPv4"]):
            continue
        for entry in _entries(f"{meta['namespace']}/{meta['name']}", cluster, piece):
            if (entry.port_name, entry.protocol) in ports:
                yield entry


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector; a text that is none selects nothing."""
    terms = _terms(selector)
    return terms is not None and all((labels.get(key) in values) is is_in for key, values, is_in in terms)


@lru_cache
def _terms(selector: str) -> list[tuple[str, tuple[str | None, ...], bool]] | None:
    """Label, values, and whether its value must be one of them; an absent label has the value None."""
    terms: list[tuple[str, tuple[str | None, ...], bool]] = []
    for term in selector.split("&&"):
        found = re.fullmatch(r"\s*(?:(all)\(\)|has\(([\w./-]+)\)|([\w./-]+)\s*(==|!=)\s*[\"']([^\"']*)[\"'])\s*", term)
        if found is None:
            return None
        everything, has, key, operator, value = found.groups()
        if has:
            terms.append((has, (None,), False))
        elif not everything:
            terms.append((key, (value,), operator == "=="))
    return terms


# ---- who may have which address

_Net = ipaddress.IPv4Network | ipaddress.IPv6Network


def _owned(local: Snapshot, peers: Mapping[str, Snapshot]) -> dict[str, set[_Net]]:
    """Prefixes that each peer may claim: none of ours, none that is reserved, none of a peer before it."""
    held = [*RESERVED, *(net for node in local["Node"] for net in (*_nets(node), *_addresses(node)))]
    held += [ipaddress.ip_network(c) for s in local["ServiceCIDR"] for c in s["spec"]["cidrs"]]
    result: dict[str, set[_Net]] = {}
    for cluster, snapshot in peers.items():
        addresses = {net for node in snapshot["Node"] for net in _addresses(node) if not _overlaps(net, held)}
        pods = {
            net
            for node in snapshot["Node"]
            for net in _nets(node)
            if not _overlaps(net, held) and not _overlaps(net, addresses)
        }
        result[cluster] = addresses | pods
        held += result[cluster]
    return result


def _cidrs(node: Json) -> list[str]:
    return node["spec"].get("podCIDRs") or []


def _nets(node: Json) -> list[_Net]:
    return [ipaddress.ip_network(text) for text in _cidrs(node)]


def _addresses(node: Json) -> list[_Net]:
    entries = node.get("status", {}).get("addresses") or ()
    return [ipaddress.ip_network(entry["address"]) for entry in entries if entry["type"] == "InternalIP"]


def _overlaps(net: _Net, others: Iterable[_Net]) -> bool:
    return any(net.version == other.version and net.overlaps(other) for other in others)


def _lies_in(address: str, nets: Iterable[_Net]) -> bool:
    return any(ipaddress.ip_address(address) in net for net in nets)
