"""Federated Services: a selector over Services of all clusters -> EndpointSlices and an Endpoints object.

Each slice of a backing Service becomes one slice of ours (more when it is longer than 100), so that a change of one
backing slice writes one object, whatever the size of the Service. The Endpoints object, which people read with
``kubectl get endpoints``, is a function of those slices.
Behaviour: tigera/docs calico-enterprise/multicluster/federation/services-controller.mdx.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.addresses import Address, parse_address
from clustermeshd.selector import Selector, parse

SLICE_SIZE = 100  # endpoints: what the built-in EndpointSlice controller writes at most
ENDPOINTS_SIZE = 1000  # addresses: the built-in Endpoints controller truncates there too
_FAMILY = {"IPv4": 4, "IPv6": 6}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Services of one cluster in one namespace; ``name`` is None for the local one."""

    name: str | None
    services: Iterable[objects.Service]
    slices: Callable[[str], Iterable[objects.EndpointSlice]]  # of a Service, by its name
    owns: Callable[[Address], bool]  # which addresses its endpoints may have


def selector_text(service: objects.Service) -> str | None:
    """The annotation that makes a Service federated, or None; the documented key wins over our alias."""
    annotations = service.annotations
    return annotations.get(names.SERVICE_SELECTOR, annotations.get(names.SERVICE_SELECTOR_ALIAS))


def selector_of(service: objects.Service) -> Selector | None:
    """Selector of a federated Service; None where it is not federated. Raises SelectorError for a bad annotation.

    A Service with a selector of its own is served by Kubernetes, one of type ExternalName has no endpoints.
    """
    text = selector_text(service)
    if text is None or service.spec.selector or service.spec.type == "ExternalName":
        return None
    return parse(text)


def slices(
    service: objects.Service, selector: Selector, clusters: Iterable[Cluster], local_nodes: Mapping[str, object]
) -> dict[str, objects.EndpointSlice]:
    """Desired EndpointSlices of a federated Service, by name."""
    desired: dict[str, objects.EndpointSlice] = {}
    for cluster in clusters:
        for backing in cluster.services:
            if _backs(service, backing, cluster.name, selector):
                for source in cluster.slices(backing.metadata.name):
                    for made in _convert(service, source, cluster, local_nodes):
                        desired[made.metadata.name] = made
    return desired


def _backs(service: objects.Service, backing: objects.Service, cluster: str | None, selector: Selector) -> bool:
    if backing.metadata.namespace != service.metadata.namespace or selector_text(backing) is not None:
        return False  # no chains: a federated Service backs nothing
    labels = backing.labels if cluster is None else {**backing.labels, names.REMOTE_CLUSTER_NAME: cluster}
    return selector.matches(labels)


def _convert(
    service: objects.Service, source: objects.EndpointSlice, cluster: Cluster, local_nodes: Mapping[str, object]
) -> Iterator[objects.EndpointSlice]:
    ports = _matching_ports(service, source)
    families = service.spec.ip_families
    if not ports or (families and source.address_type not in families) or source.address_type not in _FAMILY:
        return
    endpoints = [e for e in (_endpoint(e, cluster, local_nodes) for e in source.endpoints or ()) if e is not None]
    for chunk, start in enumerate(range(0, len(endpoints), SLICE_SIZE)):
        part = tuple(endpoints[start : start + SLICE_SIZE])
        yield objects.EndpointSlice(
            metadata=_metadata(service, source, cluster.name, chunk),
            address_type=source.address_type,
            endpoints=part,
            ports=ports,
        )


def _matching_ports(service: objects.Service, source: objects.EndpointSlice) -> tuple[objects.EndpointPort, ...]:
    """Ports of the backing endpoints that the federated Service names: by name and protocol, whatever the number."""
    wanted = {(port.name or "", port.protocol) for port in service.spec.ports or ()}
    return tuple(
        objects.EndpointPort(name=p.name or "", port=p.port, protocol=p.protocol, app_protocol=p.app_protocol)
        for p in source.ports or ()
        if (p.name or "", p.protocol) in wanted and p.port is not None
    )


def _endpoint(
    endpoint: objects.Endpoint, cluster: Cluster, local_nodes: Mapping[str, object]
) -> objects.Endpoint | None:
    """An endpoint as it enters our slice; None where its address is not that cluster's to give."""
    if cluster.name is None:
        return endpoint
    addresses = tuple(map(parse_address, endpoint.addresses))
    if not addresses or not all(address is not None and cluster.owns(address) for address in addresses):
        return None
    target = endpoint.target_ref
    return objects.Endpoint(
        addresses=endpoint.addresses,
        conditions=endpoint.conditions,
        hostname=endpoint.hostname,
        # a node name that exists here too would make kube-proxy take the endpoint for a local one
        node_name=None if endpoint.node_name in local_nodes else endpoint.node_name,
        zone=endpoint.zone,
        target_ref=None
        if target is None
        else objects.ObjectReference(
            kind=target.kind, name=f"{cluster.name}/{target.name}", namespace=target.namespace
        ),
    )


def _metadata(
    service: objects.Service, source: objects.EndpointSlice, cluster: str | None, chunk: int
) -> objects.Metadata:
    identity = f"{cluster or ''}/{source.metadata.name}/{source.address_type}/{chunk}"
    labels = {
        names.SERVICE_NAME: service.metadata.name,
        names.SLICE_MANAGED_BY: names.SLICE_MANAGER,
        names.MANAGED_BY: names.MANAGER,
    }
    if cluster is not None:
        labels[names.REMOTE_CLUSTER] = cluster
    if service.spec.cluster_ip == "None":
        labels[names.HEADLESS] = ""
    trigger = source.annotations.get(names.LAST_CHANGE_TRIGGER)
    return objects.Metadata(
        name=f"{service.metadata.name[:200]}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}",
        namespace=service.metadata.namespace,
        labels=labels,
        annotations={names.LAST_CHANGE_TRIGGER: trigger} if trigger else None,
        owner_references=(owned_by(service),),
    )


def owned_by(service: objects.Service) -> objects.OwnerReference:
    """Reference by which the garbage collector removes what a deleted Service leaves, even without us."""
    return objects.OwnerReference(
        api_version="v1", kind="Service", name=service.metadata.name, uid=service.metadata.uid, controller=True
    )


def endpoints(service: objects.Service, made: Iterable[objects.EndpointSlice]) -> objects.Endpoints:
    """The Endpoints object of a federated Service: one subset per cluster and port set, of the first family.

    Like the built-in controller's it holds 1,000 addresses at most; kube-proxy reads the slices.
    """
    family = (service.spec.ip_families or ("IPv4",))[0]
    subsets: dict[tuple[str, tuple[objects.EndpointPort, ...]], list[objects.Endpoint]] = {}
    room = ENDPOINTS_SIZE
    for piece in sorted(made, key=lambda s: (s.labels.get(names.REMOTE_CLUSTER, ""), s.metadata.name)):
        if piece.address_type != family:
            continue
        cluster = piece.labels.get(names.REMOTE_CLUSTER, "")
        taken = list(piece.endpoints or ())[:room]
        room -= len(taken)
        if taken:
            subsets.setdefault((cluster, piece.ports or ()), []).extend(taken)
    return objects.Endpoints(
        metadata=objects.Metadata(
            name=service.metadata.name,
            namespace=service.metadata.namespace,
            labels={names.SKIP_MIRROR: "true", names.MANAGED_BY: names.MANAGER},
            annotations={names.SERVICE_SELECTOR: selector_text(service) or ""},
            owner_references=(owned_by(service),),
        ),
        subsets=tuple(_subset(members, ports) for (_, ports), members in sorted(subsets.items(), key=_subset_order)),
    )


def _subset_order(item: tuple[tuple[str, tuple[objects.EndpointPort, ...]], object]) -> tuple[str, str]:
    (cluster, ports), _ = item
    return cluster, repr(ports)


def _subset(members: list[objects.Endpoint], ports: tuple[objects.EndpointPort, ...]) -> objects.EndpointSubset:
    ready = [e for e in members if e.conditions.ready is not False]
    waiting = [e for e in members if e.conditions.ready is False]
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
