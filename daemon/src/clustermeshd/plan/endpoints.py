"""The Endpoints object of a federated Service, which people read with ``kubectl get endpoints``.

kube-proxy reads EndpointSlices; this one is a function of them, of the first family, with one subset per cluster and
port set. Like the built-in controller's it holds 1,000 addresses at most and says so, ready ones first.
"""

from __future__ import annotations

from collections.abc import Iterable

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.plan.federation import owned_by, selector_text

CAPACITY = 1000

_Key = tuple[str, tuple[objects.EndpointPort, ...]]


def endpoints(service: objects.Service, made: Iterable[objects.EndpointSlice]) -> objects.Endpoints:
    """Endpoints object of a federated Service whose slices are ``made``."""
    family = (service.spec.ip_families or ("IPv4",))[0]
    ready: dict[_Key, list[objects.Endpoint]] = {}
    waiting: dict[_Key, list[objects.Endpoint]] = {}
    for piece in sorted(made, key=lambda s: (s.labels.get(names.REMOTE_CLUSTER, ""), s.metadata.name)):
        if piece.address_type == family:
            key = (piece.labels.get(names.REMOTE_CLUSTER, ""), piece.ports or ())
            for endpoint in piece.endpoints or ():
                side = waiting if endpoint.conditions.ready is False else ready
                side.setdefault(key, []).append(endpoint)
    total = sum(len(members) for side in (ready, waiting) for members in side.values())
    _cut(waiting, _cut(ready, CAPACITY))
    annotations = {names.SERVICE_SELECTOR: selector_text(service) or ""}
    if total > CAPACITY:
        annotations[names.OVER_CAPACITY] = "truncated"
    return objects.Endpoints(
        metadata=objects.Metadata(
            name=service.metadata.name,
            namespace=service.metadata.namespace,
            labels={names.SKIP_MIRROR: "true", names.MANAGED_BY: names.MANAGER},
            annotations=annotations,
            owner_references=(owned_by(service),),
        ),
        subsets=tuple(
            _subset(ready.get(key, []), waiting.get(key, []), key[1])
            for key in sorted(ready.keys() | waiting.keys(), key=lambda k: (k[0], repr(k[1])))
        ),
    )


def _cut(side: dict[_Key, list[objects.Endpoint]], room: int) -> int:
    """Leaves at most ``room`` endpoints, each cluster's in its turn; the room that is left."""
    for key in sorted(side, key=lambda k: (k[0], repr(k[1]))):
        side[key] = side[key][:room]
        room -= len(side[key])
        if not side[key]:
            del side[key]
    return room


def _subset(
    ready: list[objects.Endpoint], waiting: list[objects.Endpoint], ports: tuple[objects.EndpointPort, ...]
) -> objects.EndpointSubset:
    return objects.EndpointSubset(
        addresses=tuple(map(_address, ready)) or None,
        not_ready_addresses=tuple(map(_address, waiting)) or None,
        ports=tuple(objects.EndpointPort(name=p.name or None, port=p.port, protocol=p.protocol) for p in ports),
    )


def _address(endpoint: objects.Endpoint) -> objects.EndpointAddress:
    return objects.EndpointAddress(
        ip=endpoint.addresses[0],
        node_name=endpoint.node_name,
        hostname=endpoint.hostname,
        target_ref=endpoint.target_ref,
    )
