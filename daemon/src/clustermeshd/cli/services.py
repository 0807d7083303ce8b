"""``clustermesh services``: federated Services, what backs them in each cluster, and what is wrong with them.

Everything comes from the local API server: our EndpointSlices carry their cluster in a label. Which Services back
one in a remote cluster only that cluster knows; ``remote`` asks it, with the access Secrets the caller may read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from clustermeshd.cli import session
from clustermeshd.cli.output import is_well, problem_lines, table
from clustermeshd.cli.service_facts import LOCAL, ClusterFacts, NotAsked, ServiceRow, Services, facts
from clustermeshd.cli.service_rows import row
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from clustermeshd.plan import federation, imports
from clustermeshd.runtime.logs import escape


async def read(
    client: Client,
    namespace: str | None,
    peers: Sequence[objects.RemoteClusterConfiguration],
    *,
    name: str | None = None,
    remote: bool = False,
    timeout_s: float = 10,
) -> Services:
    """Federated Services of a namespace or of all; only ``name`` if it is given. ``remote`` asks the peers too."""

    async def question(peer_client: Client, peer: objects.RemoteClusterConfiguration) -> ClusterFacts:
        return await _admitted(peer_client, peer, await facts(peer_client, namespace, peer.metadata.name))

    asked = session.ask(client, peers, question, timeout_s=timeout_s) if remote else _nobody()
    here, truncated, answers = await asyncio.gather(facts(client, namespace), _truncated(client, namespace), asked)
    there = {answer.peer: answer.value for answer in answers if answer.value is not None}
    federated = [
        service
        for members in here.services.values()
        for service in members
        if federation.selector_text(service) is not None and name in (None, service.metadata.name)
    ]
    rows = []
    for service in sorted(federated, key=lambda s: s.key):
        events = await warnings(client, service) if name is not None else ()
        rows.append(row(service, here, there, peers, service.key in truncated, detail=name is not None, events=events))
    return Services(
        well=all(is_well(found.problems) for found in rows) and all(answer.error is None for answer in answers),
        namespace=namespace,
        services=tuple(rows),
        not_asked=tuple(NotAsked(answer.peer, str(answer.error)) for answer in answers if answer.error is not None),
    )


async def _admitted(client: Client, peer: objects.RemoteClusterConfiguration, found: ClusterFacts) -> ClusterFacts:
    """A peer's Services as its ``spec.import`` lets them count."""
    rules = imports.service_rules(peer.spec.import_)
    labels: dict[str, dict[str, str]] = {}
    if rules.selector is not None:
        labels = {thing.metadata.name: thing.labels for thing in (await client.list(resources.NAMESPACES))[0]}
    services = {
        namespace: [_visible(service, rules) for service in members]
        for namespace, members in found.services.items()
        if rules.admits(namespace, labels.get(namespace))
    }
    return ClusterFacts(found.cluster, services, found.slices, found.ours)


def _visible(service: objects.Service, rules: imports.ServiceRules) -> objects.Service:
    meta = msgspec.structs.replace(service.metadata, labels=dict(rules.visible(service.labels)))
    return msgspec.structs.replace(service, metadata=meta)


async def _nobody() -> list[session.Answer[ClusterFacts]]:
    return []


async def _truncated(client: Client, namespace: str | None) -> set[str]:
    """Keys of Endpoints objects of ours that hold less than their slices."""
    ours = f"{names.MANAGED_BY}={names.MANAGER}"
    found, _ = await client.list(resources.ENDPOINTS, namespace, label_selector=ours)
    return {endpoints.key for endpoints in found if endpoints.annotations.get(names.OVER_CAPACITY)}


# ---- events


class _Source(objects.Struct, frozen=True):
    component: str = ""


class _Event(objects.Object, frozen=True):
    type: str = ""
    reason: str = ""
    message: str = ""
    last_timestamp: str | None = None
    source: _Source = _Source()


_EVENTS = resources.Resource("", "v1", "events", "Event", _Event)


async def warnings(client: Client, service: objects.Service) -> tuple[str, ...]:
    """Warnings of our controller about a Service, newest last; an API server keeps them for an hour."""
    about = f"involvedObject.kind=Service,involvedObject.name={service.metadata.name},type=Warning"
    found, _ = await client.list(_EVENTS, service.metadata.namespace, field_selector=about)
    own = sorted(
        (e for e in found if e.source.component == names.CONTROLLER_MANAGER), key=lambda e: e.last_timestamp or ""
    )
    return tuple(f"{e.last_timestamp or '-'} {e.reason}: {e.message}" for e in own[-10:])


# ---- tables


def text(view: Services, *, wide: bool, detail: bool) -> str:
    """A line per Service, or everything about each where ``detail`` is asked for; then a line per problem."""
    if not view.services:
        where = "in any namespace" if view.namespace is None else f"in namespace {view.namespace}; -A looks in all"
        return f"There is no federated Service {where}."
    parts = [_detail(found) for found in view.services] if detail else [_list(view.services, wide)]
    parts.append(problem_lines([problem for found in view.services for problem in found.problems]))
    parts.append("\n".join(escape(f"{n.cluster} was not asked: {n.reason}") for n in view.not_asked))
    return "\n\n".join(part for part in parts if part)


def _list(services: Sequence[ServiceRow], wide: bool) -> str:
    header = ["NAMESPACE", "FEDERATED SERVICE", "SELECTOR", "BACKING", "READY ENDPOINTS", "PROBLEMS"]
    rows = [
        [s.namespace, s.name, s.selector, _backing(s), _counts(s), len(s.problems)]
        + ([",".join(s.ports), s.type, s.affinity, s.staleness, s.slices] if wide else [])
        for s in services
    ]
    return table(header + (["PORTS", "TYPE", "AFFINITY", "STALENESS", "SLICES"] if wide else []), rows)


def _backing(service: ServiceRow) -> str:
    """Backing Services, remote ones with their cluster in front; a question mark where it was not asked."""
    told = []
    for found in service.clusters:
        if found.backing is None:
            told.append(f"{found.cluster}/?")
        else:
            told += [b.name if found.cluster == LOCAL else f"{found.cluster}/{b.name}" for b in found.backing]
    return ",".join(told)


def _counts(service: ServiceRow) -> str:
    return ",".join(
        f"{c.cluster}:{c.ready}/{c.ready + c.not_ready}" for c in service.clusters if c.ready + c.not_ready
    )


def _detail(service: ServiceRow) -> str:
    facts = [
        ("Service", f"{service.namespace}/{service.name} ({service.type})"),
        ("Selector", service.selector),
        ("Ports", ", ".join(service.ports)),
        ("Affinity", service.affinity),
        ("Staleness", service.staleness or "as its peers have it"),
    ]
    lines = "\n".join(escape(f"{name + ':':<11}{value}") for name, value in facts)
    clusters = [
        [c.cluster, b.name, ",".join(b.ports), f"{b.ready}/{b.ready + b.not_ready}"]
        for c in service.clusters
        for b in c.backing or ()
    ]
    clusters += [[c.cluster, "? (--remote asks it)", "", ""] for c in service.clusters if c.backing is None]
    endpoints = [
        [e.cluster, ",".join(e.addresses), ",".join(e.ports), "yes" if e.ready else "no", e.node_name, e.target]
        for e in service.endpoints or ()
    ]
    parts = [
        lines,
        table(("CLUSTER", "BACKING SERVICE", "PORTS", "READY THERE"), clusters),
        table(("CLUSTER", "ENDPOINT", "PORTS", "READY", "NODE", "TARGET"), endpoints),
    ]
    return "\n\n".join([*parts, *(["Warnings:\n" + _lines(service.events)] if service.events else [])])


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(escape(f"  {line}") for line in lines)
