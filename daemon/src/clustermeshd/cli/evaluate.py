"""``clustermesh eval SELECTOR``: what a selector selects, here and in every remote cluster.

Like ``calicoq eval`` it makes the very connection the controller makes, with the access Secret of each
RemoteClusterConfiguration, so a failure here names what the controller would stumble over.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from dataclasses import dataclass

from clustermeshd.kube import objects, resources
from clustermeshd.kube.access import from_secret
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from clustermeshd.model.errors import MeshError
from clustermeshd.selector import Selector


@dataclass(frozen=True, slots=True)
class Found:
    """One selected thing; ``name`` of a remote one has its cluster's name in front."""

    kind: str
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    found: tuple[Found, ...]
    failed: tuple[tuple[str, str], ...]  # peer, why


async def evaluate(client: Client, selector: Selector, *, user_agent: str) -> Answer:
    """Pods and Services of all clusters that ``selector`` matches; a peer that fails does not stop the others."""
    peers, _ = await client.list(resources.REMOTE_CLUSTER_CONFIGURATIONS)
    results = await asyncio.gather(
        _cluster(client, None, selector),
        *(_peer(client, peer, selector, user_agent) for peer in peers),
        return_exceptions=True,
    )
    found: list[Found] = []
    failed: list[tuple[str, str]] = []
    for name, result in zip((None, *(peer.metadata.name for peer in peers)), results, strict=True):
        if isinstance(result, MeshError):
            failed.append((name or "local", str(result)))
        elif isinstance(result, BaseException):
            raise result
        else:
            found.extend(result)
    return Answer(tuple(sorted(found, key=lambda f: (f.kind, f.name))), tuple(failed))


async def _peer(
    client: Client, peer: objects.RemoteClusterConfiguration, selector: Selector, user_agent: str
) -> list[Found]:
    reference = peer.spec.cluster_access_secret or objects.ClusterAccessSecret()
    secret = await client.get(resources.SECRETS, reference.name, reference.namespace)
    content = base64.b64decode((secret.data or {}).get("kubeconfig", ""))
    access = await from_secret(content, f"Secret {reference.namespace}/{reference.name}")
    async with Client(access, user_agent=user_agent) as remote:
        return await _cluster(remote, peer.metadata.name, selector)


async def _cluster(client: Client, name: str | None, selector: Selector) -> list[Found]:
    (pods, _), (services, _) = await asyncio.gather(client.list(resources.PODS), client.list(resources.SERVICES))
    prefix = f"{name}/" if name else ""
    return [*_pods(pods, prefix, selector), *_services(services, prefix, name, selector)]


def _pods(pods: Iterable[objects.Pod], prefix: str, selector: Selector) -> Iterable[Found]:
    """Pods by the labels that Calico gives their endpoints; host-network and finished pods are none."""
    for pod in pods:
        if pod.spec.host_network or not pod.spec.node_name or pod.status.phase in ("Succeeded", "Failed"):
            continue
        labels = {
            **pod.labels,
            "projectcalico.org/namespace": pod.metadata.namespace or "",
            "projectcalico.org/orchestrator": "k8s",
            "projectcalico.org/serviceaccount": pod.spec.service_account_name or "default",
        }
        if selector.matches(labels):
            where = f"{prefix}{pod.spec.node_name}/k8s/{pod.metadata.namespace}.{pod.metadata.name}/eth0"
            yield Found("Workload endpoint", where, tuple(ip.ip for ip in pod.status.pod_ips or ()))


def _services(
    services: Iterable[objects.Service], prefix: str, name: str | None, selector: Selector
) -> Iterable[Found]:
    for service in services:
        labels = {**service.labels, names.REMOTE_CLUSTER_NAME: name} if name else service.labels
        if selector.matches(labels):
            yield Found("Service", f"{prefix}{service.key}", service.spec.cluster_ips or ())
