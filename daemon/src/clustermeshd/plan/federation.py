"""Federated Services: endpoints of backing Services of all clusters -> EndpointSlices of ours.

Each slice of a backing Service becomes one slice of ours (more when it is longer than 100), so that a change of one
backing slice writes one object, whatever the size of the Service and however many clusters back it.
Behaviour: tigera/docs calico-enterprise/multicluster/federation/services-controller.mdx; affinity has the vocabulary
of Cilium (service.cilium.io/affinity).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.errors import Refused
from clustermeshd.plan.packing import packed
from clustermeshd.selector import Selector, parse
from clustermeshd.selector.partial import verdict

Stale: TypeAlias = Literal["", "NotReady", "Drop"]
"""What is to become of the endpoints of a cluster that has not been read for too long; "" = nothing."""

_FAMILY = {"IPv4": 4, "IPv6": 6}
_MAX_ADDRESSES = 100  # of an endpoint (discovery/v1)
_GIVEN = objects.EndpointConditions(ready=True, serving=True, terminating=False)


@dataclass(frozen=True, slots=True)
class Backing:
    """Slices of one cluster's backing Services; ``cluster`` is "" for the local one.

    Those of a peer have ``entered``. ``owns`` tells whether all texts are addresses, of that family, that endpoints of
    the cluster may have; the local cluster's are not asked about. ``owned`` is kept by the caller between plans, as
    long as ``owns`` answers alike: the slices, by key, whose endpoints were all found to be the peer's.
    ``is_written``: the slices are ours, of a peer that has not been read in this process's life. ``waits`` is what
    holds then for those that were marked as stale.
    """

    cluster: str
    slices: Iterable[objects.EndpointSlice]
    owns: Callable[[Iterable[str], int], bool] = lambda *_: True
    stale: Stale = ""
    owned: dict[str, objects.EndpointSlice] = field(default_factory=dict)
    is_written: bool = False
    waits: Stale = ""

    def stale_of(self, piece: objects.EndpointSlice) -> Stale:
        return self.stale or (self.waits if self.is_written and names.STALE in piece.annotations else "")


@dataclass(slots=True)
class Federated:
    """What a Service gets: slices by name, and the remote endpoints that were not admitted."""

    slices: dict[str, objects.EndpointSlice] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)  # cluster -> addresses


@dataclass(slots=True)
class _Piece:
    """Endpoints that stand or fall together: those of one backing slice."""

    name: str
    cluster: str
    stale: Stale
    slice: objects.EndpointSlice
    endpoints: tuple[objects.Endpoint, ...]

    @property
    def serves(self) -> set[tuple[str, str | None, str]]:
        return {(self.slice.address_type, port.name, port.protocol) for port in self.slice.ports or ()}

    @property
    def is_ready(self) -> bool:
        return any(endpoint.conditions.ready is not False for endpoint in self.endpoints)

    def step_back(self, *, is_stale: bool) -> None:
        """Takes the endpoints out of the proxies' choice; ``serving`` keeps which were ready (see ``_as_given``).

        One that was not stays as it is, but of a lost cluster it does not serve either: proxies fall back to what
        serves while it terminates.
        """
        if is_stale:
            annotations = {**self.slice.annotations, names.STALE: "true"}
            meta = msgspec.structs.replace(self.slice.metadata, annotations=annotations)
            self.slice = msgspec.structs.replace(self.slice, metadata=meta)
        self.endpoints = tuple(_stepped_back(e, is_stale=is_stale) for e in self.endpoints)


def _stepped_back(endpoint: objects.Endpoint, *, is_stale: bool) -> objects.Endpoint:
    given = endpoint.conditions
    if given.ready is not False:
        conditions = objects.EndpointConditions(ready=False, serving=True, terminating=False)
    elif is_stale:
        conditions = objects.EndpointConditions(ready=False, serving=False, terminating=given.terminating)
    else:
        return endpoint
    return msgspec.structs.replace(endpoint, conditions=conditions)


def _published(endpoint: objects.Endpoint) -> objects.Endpoint:
    """An endpoint that counts as ready in whatever state it is; that state stays to be seen."""
    if endpoint.conditions.ready:
        return endpoint
    return msgspec.structs.replace(endpoint, conditions=msgspec.structs.replace(endpoint.conditions, ready=True))


def _as_given(endpoint: objects.Endpoint) -> objects.Endpoint:
    """An endpoint of a slice of ours before it stepped back.

    Kubernetes never writes one that serves, does not terminate and is not ready: that is one of which we took it.
    """
    said = endpoint.conditions
    if said.ready is not False or not said.serving or said.terminating:
        return endpoint
    return msgspec.structs.replace(endpoint, conditions=_GIVEN)


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


def objection(service: objects.Service) -> Refused | None:
    """What is wrong with a Service that carries the annotation, beside its selector; it is told in an Event."""
    where = f"Service {service.key}"
    if service.spec.selector or service.spec.type == "ExternalName":
        found = "spec.selector is set" if service.spec.selector else "it is of type ExternalName"
        return Refused("NotFederated", f"not federated: {found}", where=where, fix="use a Service without selector")
    affinity = service.annotations.get(names.AFFINITY, "none")
    if affinity not in ("local", "remote", "none"):
        found = f"annotation {names.AFFINITY} is {affinity[:50]!r} and counts as none"
        return Refused("InvalidAffinity", found, where=where, fix="set local, remote or none")
    return None


def may_select(selector: Selector, cluster: str) -> bool:
    """Whether some Service of a peer could be selected: its labels are not known, but the one that we give it is."""
    return verdict(selector, {names.REMOTE_CLUSTER_NAME: cluster}) is not False


def backing_labels(service: objects.Service, cluster: str) -> dict[str, str] | None:
    """Labels by which a Service is selected as backing; None for a federated one, which backs nothing (no chains)."""
    if selector_text(service) is not None:
        return None
    return {**service.labels, names.REMOTE_CLUSTER_NAME: cluster} if cluster else dict(service.labels)


def plan(service: objects.Service, backings: Iterable[Backing], local_nodes: Collection[str] = ()) -> Federated:
    """Desired EndpointSlices of a federated Service."""
    made = Federated()
    pieces = [piece for backing in backings for piece in _pieces(service, backing, local_nodes, made)]
    _apply_staleness(pieces)
    _apply_affinity(pieces, service.annotations.get(names.AFFINITY, "none"))
    for piece in pieces:
        made.slices.update(_slices(service, piece))
    return made


def _apply_staleness(pieces: list[_Piece]) -> None:
    """Takes back endpoints of lost clusters, unless a port would be left without any ready endpoint."""
    covered = _covered(piece for piece in pieces if not piece.stale)
    everything, pieces[:] = list(pieces), ()
    for piece in everything:
        if piece.stale and piece.serves <= covered:
            if piece.stale == "Drop":
                continue
            piece.step_back(is_stale=True)
        pieces.append(piece)


def _apply_affinity(pieces: list[_Piece], affinity: str) -> None:
    """While the preferred side has a ready endpoint for every port of a slice, the other side's slice waits."""
    if affinity not in ("local", "remote"):
        return
    covered = _covered(piece for piece in pieces if bool(piece.cluster) is (affinity == "remote"))
    for piece in pieces:
        if bool(piece.cluster) is (affinity == "local") and piece.serves <= covered:
            piece.step_back(is_stale=False)


def _covered(pieces: Iterable[_Piece]) -> set[tuple[str, str | None, str]]:
    return {pair for piece in pieces if piece.is_ready for pair in piece.serves}


def _pieces(
    service: objects.Service, backing: Backing, local_nodes: Collection[str], made: Federated
) -> Iterator[_Piece]:
    families = service.spec.ip_families
    for source in backing.slices:
        ports = _matching_ports(service, source)
        if not ports or source.address_type not in (families or _FAMILY) or source.address_type not in _FAMILY:
            continue
        endpoints = source.endpoints or ()
        if backing.cluster:
            endpoints = _admitted(source, backing, local_nodes, made)
        if backing.is_written:
            endpoints = tuple(map(_as_given, endpoints))
        if service.spec.publish_not_ready_addresses:
            endpoints = tuple(map(_published, endpoints))
        trigger = source.annotations.get(names.LAST_CHANGE_TRIGGER)
        yield _Piece(
            source.metadata.name if backing.is_written else _name(service, backing.cluster, source),
            backing.cluster,
            backing.stale_of(source),
            objects.EndpointSlice(
                metadata=objects.Metadata(annotations={names.LAST_CHANGE_TRIGGER: trigger} if trigger else None),
                address_type=source.address_type,
                ports=ports,
            ),
            endpoints,
        )


def _name(service: objects.Service, cluster: str, source: objects.EndpointSlice) -> str:
    identity = f"{cluster}/{source.metadata.name}/{source.address_type}"
    return f"{service.metadata.name[:200]}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _matching_ports(service: objects.Service, source: objects.EndpointSlice) -> tuple[objects.EndpointPort, ...]:
    """Ports of the backing endpoints that the federated Service names: by name and protocol, whatever the number."""
    wanted = {(port.name or "", port.protocol): port.app_protocol for port in service.spec.ports or ()}
    return tuple(
        objects.EndpointPort(
            name=p.name or "",
            port=p.port,
            protocol=p.protocol,
            app_protocol=wanted[(p.name or "", p.protocol)] or p.app_protocol,
        )
        for p in source.ports or ()
        if (p.name or "", p.protocol) in wanted and p.port is not None and 0 < p.port < 65536
    )


def _admitted(
    source: objects.EndpointSlice, backing: Backing, local_nodes: Collection[str], made: Federated
) -> tuple[objects.Endpoint, ...]:
    """Endpoints of a peer as they enter our slice; one with an address that is not that peer's to give does not.

    The very tuple of the source where all of them do, as they are.
    """
    endpoints = source.endpoints or ()
    known = backing.owned.pop(source.key, None)
    if known is None or not _have_same_addresses(known, source):
        family, owns = _FAMILY[source.address_type], backing.owns
        is_own = [0 < len(e.addresses) <= _MAX_ADDRESSES and owns(e.addresses, family) for e in endpoints]
        if not all(is_own):
            foreign = [e for e, own in zip(endpoints, is_own, strict=True) if not own]
            refused = (", ".join(e.addresses[:2]) or "no address" for e in foreign)
            made.refused.setdefault(backing.cluster, []).extend(refused)
            endpoints = tuple(e for e, own in zip(endpoints, is_own, strict=True) if own)
    if endpoints is source.endpoints:
        backing.owned[source.key] = source
    if any(endpoint.node_name in local_nodes for endpoint in endpoints):
        # a node name that exists here too would make kube-proxy take the endpoint for a local one
        return tuple(
            msgspec.structs.replace(e, node_name=None) if e.node_name in local_nodes else e for e in endpoints
        )
    return endpoints


def _have_same_addresses(one: objects.EndpointSlice, other: objects.EndpointSlice) -> bool:
    """Whether two slices differ in nothing that ownership goes by."""
    ours, theirs = one.endpoints or (), other.endpoints or ()
    return one is other or (
        one.address_type == other.address_type
        and len(ours) == len(theirs)
        and all(a.addresses == b.addresses for a, b in zip(ours, theirs, strict=True))
    )


def _slices(service: objects.Service, piece: _Piece) -> Iterator[tuple[str, objects.EndpointSlice]]:
    labels = {
        names.SERVICE_NAME: service.metadata.name,
        names.SLICE_MANAGED_BY: names.SLICE_MANAGER,
        names.MANAGED_BY: names.MANAGER,
    }
    if piece.cluster:
        labels[names.REMOTE_CLUSTER] = piece.cluster
    if service.spec.cluster_ip == "None":
        labels[names.HEADLESS] = ""
    for number, endpoints in packed(piece.endpoints):
        name = f"{piece.name}-{number}" if number else piece.name
        yield (
            name,
            objects.EndpointSlice(
                metadata=objects.Metadata(
                    name=name,
                    namespace=service.metadata.namespace,
                    labels=labels,
                    annotations=piece.slice.metadata.annotations,
                    owner_references=(owned_by(service),),
                ),
                address_type=piece.slice.address_type,
                endpoints=endpoints,
                ports=piece.slice.ports,
            ),
        )


def owned_by(service: objects.Service) -> objects.OwnerReference:
    """Reference by which the garbage collector removes what a deleted Service leaves, even without us."""
    return objects.OwnerReference(
        api_version="v1", kind="Service", name=service.metadata.name, uid=service.metadata.uid, controller=True
    )
