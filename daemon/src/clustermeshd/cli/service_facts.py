"""What ``clustermesh services`` tells, as structs, and what a cluster has that bears on it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from clustermeshd.cli.output import Document, Problem
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from clustermeshd.plan import federation
from clustermeshd.plan.matching import Matches
from clustermeshd.selector import Selector, SelectorError

LOCAL = "local"
Key = tuple[str, str]  # namespace, name
Port = tuple[str, str]  # name, protocol


class EndpointRow(Document, frozen=True):
    cluster: str
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    ready: bool
    node_name: str | None
    target: str | None


class BackingRow(Document, frozen=True):
    """One backing Service; endpoints as its own cluster has them, ``ports`` those that are federated."""

    name: str
    ports: tuple[str, ...]
    ready: int
    not_ready: int


class ClusterRow(Document, frozen=True):
    """What one cluster gives to a federated Service; ``backing`` is null where the cluster was not asked."""

    cluster: str
    backing: tuple[BackingRow, ...] | None
    ready: int
    not_ready: int


class ServiceRow(Document, frozen=True):
    """One federated Service; ``endpoints`` is null unless one Service was asked for."""

    namespace: str
    name: str
    selector: str
    type: str
    ports: tuple[str, ...]
    affinity: str
    staleness: str | None
    slices: int
    clusters: tuple[ClusterRow, ...]
    endpoints: tuple[EndpointRow, ...] | None
    events: tuple[str, ...]
    problems: tuple[Problem, ...]


class NotAsked(Document, frozen=True):
    cluster: str
    reason: str


class Services(Document, frozen=True):
    """The whole answer; ``namespace`` is null for all."""

    well: bool
    namespace: str | None
    services: tuple[ServiceRow, ...]
    not_asked: tuple[NotAsked, ...]


@dataclass(slots=True)
class Count:
    """Distinct endpoints of some slices: per family, address -> whether it is ready in one of them."""

    _seen: defaultdict[str, dict[str, bool]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, piece: objects.EndpointSlice) -> None:
        seen = self._seen[piece.address_type]
        for endpoint in piece.endpoints or ():
            address = endpoint.addresses[0] if endpoint.addresses else ""
            seen[address] = seen.get(address, False) or endpoint.conditions.ready is not False

    @property
    def ready(self) -> int:
        """Of the family that has most: both families of a pod are one endpoint."""
        return max((sum(seen.values()) for seen in self._seen.values()), default=0)

    @property
    def not_ready(self) -> int:
        return max(map(len, self._seen.values()), default=0) - self.ready


@dataclass(slots=True)
class ClusterFacts:
    """Services of one cluster by namespace, and slices by the Service they belong to; ``cluster`` is "" for ours."""

    cluster: str = ""
    services: dict[str, list[objects.Service]] = field(default_factory=dict)
    slices: dict[Key, list[objects.EndpointSlice]] = field(default_factory=dict)
    ours: dict[Key, list[objects.EndpointSlice]] = field(default_factory=dict)  # those that federation wrote
    _index: dict[str, Matches[str, int]] = field(default_factory=dict)

    def backing(self, selector: Selector, namespace: str) -> list[objects.Service]:
        """Services that back a federated one of a namespace, by name."""
        members = self.services.get(namespace, [])
        if namespace not in self._index:
            self._index[namespace] = Matches()
            for number, service in enumerate(members):
                self._index[namespace].set_labels(number, federation.backing_labels(service, self.cluster))
        index = self._index[namespace]
        index.set_selector(str(selector), selector)
        return sorted((members[n] for n in index.selected(str(selector))), key=lambda service: service.metadata.name)


async def facts(client: Client, namespace: str | None, cluster: str = "") -> ClusterFacts:
    """What one cluster has in a namespace, or in all."""
    (services, _), (slices, _) = await asyncio.gather(
        client.list(resources.SERVICES, namespace), client.list(resources.ENDPOINT_SLICES, namespace)
    )
    found = ClusterFacts(cluster)
    for service in services:
        found.services.setdefault(service.metadata.namespace or "", []).append(service)
    for piece in slices:
        own = piece.labels.get(names.SLICE_MANAGED_BY) == names.SLICE_MANAGER
        key = (piece.metadata.namespace or "", piece.labels.get(names.SERVICE_NAME, ""))
        (found.ours if own else found.slices).setdefault(key, []).append(piece)
    return found


# ---- backing Services


def ports_of(service: objects.Service, slices: Iterable[objects.EndpointSlice]) -> set[Port]:
    """Ports that a backing Service offers: those of its endpoints, or its own while it has none."""
    found = {(p.name or "", p.protocol) for piece in slices for p in piece.ports or ()}
    return found or {(p.name or "", p.protocol) for p in service.spec.ports or ()}


def port_text(port: Port) -> str:
    return f"{port[0] or '(unnamed)'}/{port[1]}"


def selector_or_error(service: objects.Service) -> Selector | SelectorError | None:
    """Selector; the error of a bad one; None where the annotation has no effect."""
    try:
        return federation.selector_of(service)
    except SelectorError as error:
        return error


def by_cluster(slices: Iterable[objects.EndpointSlice]) -> Mapping[str, list[objects.EndpointSlice]]:
    """Slices of ours by the cluster they came from; "" for the local one."""
    found: dict[str, list[objects.EndpointSlice]] = {}
    for piece in slices:
        found.setdefault(piece.labels.get(names.REMOTE_CLUSTER, ""), []).append(piece)
    return found
