"""What is told of one federated Service, and what is wrong with it: pure functions over what was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clustermeshd.cli.fixes import fix
from clustermeshd.cli.output import Problem
from clustermeshd.cli.service_facts import (
    LOCAL,
    BackingRow,
    ClusterFacts,
    ClusterRow,
    Count,
    EndpointRow,
    Port,
    ServiceRow,
    by_cluster,
    port_text,
    ports_of,
    selector_or_error,
)
from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.errors import Refused
from clustermeshd.plan import federation
from clustermeshd.plan.staleness import annotated
from clustermeshd.selector import Selector, SelectorError

_AFFINITIES = ("local", "remote", "none")


@dataclass(frozen=True, slots=True)
class _Case:
    """One federated Service with all that bears on it; ``there`` holds the clusters that were asked."""

    service: objects.Service
    here: ClusterFacts
    there: Mapping[str, ClusterFacts]
    peers: Mapping[str, objects.RemoteClusterConfiguration]
    truncated: bool

    @property
    def wanted(self) -> set[Port]:
        return {(p.name or "", p.protocol) for p in self.service.spec.ports or ()}

    @property
    def key(self) -> tuple[str, str]:
        return self.service.metadata.namespace or "", self.service.metadata.name


def row(
    service: objects.Service,
    here: ClusterFacts,
    there: Mapping[str, ClusterFacts],
    peers: Sequence[objects.RemoteClusterConfiguration],
    truncated: bool,
    *,
    detail: bool,
    events: tuple[str, ...],
) -> ServiceRow:
    """A federated Service as it is told; ``detail`` lists every endpoint."""
    case = _Case(service, here, there, {peer.metadata.name: peer for peer in peers}, truncated)
    selector = selector_or_error(service)
    written = by_cluster(here.ours.get(case.key, ()))
    clusters = tuple(_clusters(case, selector if isinstance(selector, Selector) else None, written))
    return ServiceRow(
        namespace=case.key[0],
        name=case.key[1],
        selector=str(selector) if isinstance(selector, Selector) else federation.selector_text(service) or "",
        type="Headless" if service.spec.cluster_ip == "None" else service.spec.type,
        ports=tuple(map(port_text, sorted(case.wanted))),
        affinity=service.annotations.get(names.AFFINITY, "none"),
        staleness=service.annotations.get(names.STALENESS),
        slices=sum(map(len, written.values())),
        clusters=clusters,
        endpoints=tuple(_endpoints(written)) if detail else None,
        events=events,
        problems=tuple(_problems(case, selector, clusters, written)),
    )


def _clusters(
    case: _Case, selector: Selector | None, written: Mapping[str, list[objects.EndpointSlice]]
) -> Iterator[ClusterRow]:
    for cluster in sorted({"", *case.there, *written}):
        count = Count()
        for piece in written.get(cluster, ()):
            count.add(piece)
        known = case.there.get(cluster) if cluster else case.here
        rows = None if known is None else tuple(_backings(case, selector, known))
        yield ClusterRow(cluster or LOCAL, rows, count.ready, count.not_ready)


def _backings(case: _Case, selector: Selector | None, known: ClusterFacts) -> Iterator[BackingRow]:
    if selector is None:
        return
    for found in known.backing(selector, case.key[0]):
        slices = known.slices.get((found.metadata.namespace or "", found.metadata.name), ())
        count = Count()
        for piece in slices:
            count.add(piece)
        offered = ports_of(found, slices) & case.wanted
        yield BackingRow(found.metadata.name, tuple(map(port_text, sorted(offered))), count.ready, count.not_ready)


def _endpoints(written: Mapping[str, list[objects.EndpointSlice]]) -> Iterator[EndpointRow]:
    for cluster in sorted(written):
        for piece in sorted(written[cluster], key=lambda s: s.metadata.name):
            ports = tuple(f"{p.port}/{p.protocol}" for p in piece.ports or ())
            for e in piece.endpoints or ():
                target = e.target_ref.name if e.target_ref is not None else None
                ready = e.conditions.ready is not False
                yield EndpointRow(cluster or LOCAL, e.addresses, ports, ready, e.node_name, target)


# ---- problems


def _problems(
    case: _Case,
    selector: Selector | SelectorError | None,
    clusters: Sequence[ClusterRow],
    written: Mapping[str, list[objects.EndpointSlice]],
) -> Iterator[Problem]:
    yield from _annotations(case, selector)
    if not isinstance(selector, Selector):
        return
    yield from _supply(case, selector, clusters)
    yield from _ports(case, clusters, written)
    if case.truncated:
        yield _problem(case, "OverCapacity", "its Endpoints object holds the first 1,000 addresses", "warning")
    for found in clusters:
        peer = case.peers.get(found.cluster)
        if found.cluster == LOCAL or not (found.ready or found.not_ready):
            continue
        if peer is None or not any(c.type == "Synced" and c.status == "True" for c in peer.status.conditions or ()):
            told = f"endpoints of {found.cluster} stand as they were last seen: that peer is not in sync"
            yield _problem(case, "ClusterStale", told, "warning")


def _annotations(case: _Case, selector: Selector | SelectorError | None) -> Iterator[Problem]:
    service = case.service
    if isinstance(selector, SelectorError):
        yield _problem(case, "InvalidSelector", f"annotation {names.SERVICE_SELECTOR}: {selector.found}")
    elif selector is None and service.spec.selector:
        yield _problem(case, "HasSelector", "it has spec.selector, so that Kubernetes itself serves it")
    elif selector is None:
        yield _problem(case, "ExternalName", "a Service of type ExternalName has no endpoints")
    if (affinity := service.annotations.get(names.AFFINITY, "none")) not in _AFFINITIES:
        yield _problem(case, "InvalidAffinity", f"annotation {names.AFFINITY} is {affinity[:100]!r}")
    try:
        annotated(service)
    except Refused as error:
        yield _problem(case, error.reason, f"{error.where}: {error.found}")


def _supply(case: _Case, selector: Selector, clusters: Sequence[ClusterRow]) -> Iterator[Problem]:
    """Whether anything backs the Service, and whether what backs it has arrived."""
    federated = sum(found.ready + found.not_ready for found in clusters)
    backed = [b for found in clusters for b in found.backing or ()]
    if not backed and not federated:
        yield _problem(case, "NoBacking", _unbacked(case, selector))
        return
    for found in clusters:
        supply = sum(b.ready + b.not_ready for b in found.backing or () if b.ports)
        if supply and not found.ready and not found.not_ready:
            told = f"{supply} endpoints of {found.cluster} back it, and none of them has been written"
            if found.cluster == LOCAL:
                yield _problem(case, "NotWritten", told)
            else:
                yield _problem(
                    case, "NotFederated", told, how="is the peer in sync, admitted (spec.import), not lost?"
                )
    if federated and not any(found.ready for found in clusters):
        yield _problem(case, "NoEndpoints", "none of its endpoints is ready")
    elif not federated and not any(b.ready + b.not_ready for b in backed):
        yield _problem(case, "NoEndpoints", f"{', '.join(b.name for b in backed)}: no endpoint behind it")


def _unbacked(case: _Case, selector: Selector) -> str:
    """Why nothing backs the Service; a federated Service that would match is named, since it may surprise."""
    chained = sorted(
        other.metadata.name
        for other in case.here.services.get(case.key[0], ())
        if other is not case.service and federation.selector_text(other) is not None and selector.matches(other.labels)
    )
    if chained:
        return f"only {', '.join(chained)} matches, which is federated itself and backs nothing"
    unasked = sorted(case.peers.keys() - case.there.keys())
    told = "no Service of its namespace matches"
    return f"{told} here, and no endpoint came from {', '.join(unasked)}" if unasked else f"{told} in any cluster"


def _ports(
    case: _Case, clusters: Sequence[ClusterRow], written: Mapping[str, list[objects.EndpointSlice]]
) -> Iterator[Problem]:
    """Backing Services that offer none of the ports, and ports that nobody offers."""
    offered = {(p.name or "", p.protocol) for pieces in written.values() for s in pieces for p in s.ports or ()}
    offered_texts = set(map(port_text, offered)) | {p for c in clusters for b in c.backing or () for p in b.ports}
    wanted = ", ".join(map(port_text, sorted(case.wanted))) or "no port at all"
    blamed = False
    for found in clusters:
        for backing_row in found.backing or ():
            if not backing_row.ports:
                blamed = True
                name = backing_row.name if found.cluster == LOCAL else f"{found.cluster}/{backing_row.name}"
                told = f"{name} has none of its ports ({wanted})"
                yield _problem(case, "PortMismatch", told)
    missing = [port_text(p) for p in sorted(case.wanted) if port_text(p) not in offered_texts]
    if missing and not blamed and any(c.backing or c.ready or c.not_ready for c in clusters):
        yield _problem(case, "PortMismatch", f"nothing that backs it has {', '.join(missing)}")


def _problem(
    case: _Case, reason: str, message: str, severity: Literal["error", "warning"] = "error", how: str = ""
) -> Problem:
    return Problem(severity, f"service {case.service.key}", reason, message, how or fix(reason))
