"""``clustermesh eval SELECTOR``: what a selector matches, here and in every remote cluster.

Like ``calicoq eval`` it makes the very connection the controller makes. Pods have the labels that Calico gives their
endpoints, so that the selector of a policy rule can be tried out; with ``services`` it is federation's view instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from clustermeshd.cli import session
from clustermeshd.cli.output import Document, table
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.plan import federation
from clustermeshd.runtime.logs import escape
from clustermeshd.selector import Selector

T = TypeVar("T", bound=objects.Object)
Kind = Literal["Workload endpoint", "Service"]
_NAMESPACE_LABEL, _ACCOUNT_LABEL = "pcns.", "pcsa."
_ADDRESSES = ("cni.projectcalico.org/podIPs", "cni.projectcalico.org/podIP")  # where status.podIPs is not there yet
_SERVICE_ACCOUNTS = resources.Resource("", "v1", "serviceaccounts", "ServiceAccount", objects.Object)


class Found(Document, frozen=True):
    """One match; the name of a remote one has its RemoteClusterConfiguration's in front."""

    kind: Kind
    name: str
    cluster: str | None  # null: the local one
    addresses: tuple[str, ...]
    labels: dict[str, str]


class Asked(Document, frozen=True):
    """One cluster; ``error`` says why it could not be asked, null where it was."""

    cluster: str | None
    matches: int
    error: str | None


class Evaluation(Document, frozen=True):
    """The whole answer, the selector in canonical form."""

    selector: str
    found: tuple[Found, ...]
    clusters: tuple[Asked, ...]


async def evaluate(
    client: Client, selector: Selector, *, namespace: str | None, services: bool, timeout_s: float
) -> Evaluation:
    """Matches of all clusters; a peer that cannot be asked is told and stops no other."""

    async def question(remote: Client, peer: objects.RemoteClusterConfiguration) -> list[Found]:
        return await _matches(remote, peer.metadata.name, selector, namespace, services)

    peers = await session.peers(client)
    here, answers = await asyncio.gather(
        _matches(client, None, selector, namespace, services),
        session.ask(client, peers, question, timeout_s=timeout_s),
    )
    found = here + [match for answer in answers for match in answer.value or ()]
    asked = [Asked(None, len(here), None)]
    asked += [Asked(a.peer, len(a.value or ()), None if a.error is None else str(a.error)) for a in answers]
    ordered = sorted(found, key=lambda f: (f.cluster is None, f.cluster or "", f.name))
    return Evaluation(str(selector), tuple(ordered), tuple(asked))


async def _matches(
    client: Client, cluster: str | None, selector: Selector, namespace: str | None, services: bool
) -> list[Found]:
    if services:
        return list(_services(await _all(client, resources.SERVICES, namespace), cluster, selector))
    # namespaces and accounts are read only where they can matter: it takes rights, and time
    text = str(selector)
    namespaces = await _namespaces(client, namespace) if _NAMESPACE_LABEL in text else []
    accounts = await _all(client, _SERVICE_ACCOUNTS, namespace) if _ACCOUNT_LABEL in text else []
    pods = await _all(client, resources.PODS, namespace)
    return list(_pods(pods, cluster, selector, _labels(namespaces), _labels(accounts)))


async def _all(client: Client, resource: resources.Resource[T], namespace: str | None) -> list[T]:
    return (await client.list(resource, namespace))[0]


async def _namespaces(client: Client, name: str | None) -> list[objects.Namespace]:
    only = f"metadata.name={name}" if name is not None else None
    return (await client.list(resources.NAMESPACES, field_selector=only))[0]


def _labels(things: Iterable[objects.Object]) -> dict[str, dict[str, str]]:
    return {thing.key: thing.labels for thing in things}


def _pods(
    pods: Iterable[objects.Pod],
    cluster: str | None,
    selector: Selector,
    namespaces: Mapping[str, Mapping[str, str]],
    accounts: Mapping[str, Mapping[str, str]],
) -> Iterable[Found]:
    prefix = f"{cluster}/" if cluster else ""
    for pod in pods:
        addresses = _addresses(pod)
        if not addresses:
            continue
        labels = endpoint_labels(pod, namespaces, accounts)
        if selector.matches(labels):
            where = f"{prefix}{pod.spec.node_name}/k8s/{pod.metadata.namespace}.{pod.metadata.name}/eth0"
            yield Found("Workload endpoint", where, cluster, addresses, labels)


def _addresses(pod: objects.Pod) -> tuple[str, ...]:
    """Addresses of a pod that is an endpoint; none of one that is on the host's network, unscheduled or finished."""
    if pod.spec.host_network or not pod.spec.node_name or pod.status.phase in ("Succeeded", "Failed"):
        return ()
    told = tuple(entry.ip for entry in pod.status.pod_ips or () if entry.ip)
    annotated = next((pod.annotations[key] for key in _ADDRESSES if pod.annotations.get(key)), "")
    return told or tuple(part.partition("/")[0] for part in annotated.split(",") if part)


def endpoint_labels(
    pod: objects.Pod, namespaces: Mapping[str, Mapping[str, str]], accounts: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Labels of a pod's endpoint: inherited ones by prefix, then its own, which cannot pose as inherited ones.

    Source: libcalico-go/lib/backend/k8s/conversion. ``namespaces`` by name, ``accounts`` by namespace/name.
    """
    namespace = pod.metadata.namespace or ""
    account = pod.spec.service_account_name or "default"
    own = {k: v for k, v in pod.labels.items() if not k.startswith((_NAMESPACE_LABEL, _ACCOUNT_LABEL))}
    return {
        **{f"{_NAMESPACE_LABEL}{key}": value for key, value in namespaces.get(namespace, {}).items()},
        **{f"{_ACCOUNT_LABEL}{key}": value for key, value in accounts.get(f"{namespace}/{account}", {}).items()},
        f"{_NAMESPACE_LABEL}projectcalico.org/name": namespace,
        f"{_ACCOUNT_LABEL}projectcalico.org/name": account,
        **own,
        "projectcalico.org/namespace": namespace,
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": account,
    }


def _services(services: Iterable[objects.Service], cluster: str | None, selector: Selector) -> Iterable[Found]:
    """Services that may back a federated one."""
    for service in services:
        labels = federation.backing_labels(service, cluster or "")
        if labels is not None and selector.matches(labels):
            name = f"{cluster}/{service.key}" if cluster else service.key
            yield Found("Service", name, cluster, service.spec.cluster_ips or (), labels)


# ---- tables


def text(answer: Evaluation, *, wide: bool) -> str:
    """The picture of ``calicoq eval``: a line per match; with addresses and labels where ``wide`` is asked for."""
    if wide:
        rows = [(f.kind, f.name, ",".join(f.addresses), _pairs(f.labels)) for f in answer.found]
        return table(("KIND", "NAME", "ADDRESSES", "LABELS"), rows)
    lines = [f"Endpoints matching selector {answer.selector}:"]
    lines += [f"{found.kind} {found.name}" for found in answer.found]
    return "\n".join(map(escape, lines))


def _pairs(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def complaints(answer: Evaluation) -> Sequence[str]:
    """A line per cluster that was not asked."""
    return [f"peer {asked.cluster} was not asked: {asked.error}" for asked in answer.clusters if asked.error]
