"""What ``clustermesh check`` finds out about one peer, with the credential the controller uses; step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ssl import SSLSocket, cert_time_to_seconds
from typing import Literal, cast
from urllib.parse import urlsplit

from clustermeshd.cli import reviews, session
from clustermeshd.cli.fixes import fix
from clustermeshd.cli.output import Document
from clustermeshd.cli.status import EXPIRY_WARNING, condition
from clustermeshd.kube import objects, resources
from clustermeshd.kube.access import Access, from_secret
from clustermeshd.kube.client import Client
from clustermeshd.kube.discovery import serves
from clustermeshd.kube.errors import Forbidden, NotFound
from clustermeshd.model import names
from clustermeshd.model.errors import MeshError, Refused
from clustermeshd.plan import ipam

Result = Literal["ok", "warn", "FAIL"]
_SERVICE_ACCOUNTS = resources.Resource("", "v1", "serviceaccounts", "ServiceAccount", objects.Object)
_STEPS = ("access Secret", "kubeconfig", "credential", "API server", "rights", "cluster", "nodes", "pod prefixes")


class Check(Document, frozen=True):
    """One finding; ``scope`` is "local", "node NAME" or "peer NAME". ``fix`` is empty where nothing is to be done."""

    scope: str
    check: str
    result: Result
    message: str
    fix: str = ""


@dataclass(slots=True)
class Probe:
    """What is known of a peer after it was asked; ``nodes`` is None where it did not tell."""

    configuration: objects.RemoteClusterConfiguration
    checks: list[Check] = field(default_factory=list)
    cluster_id: str = ""
    nodes: list[objects.Node] | None = None
    prefixes: ipam.PodPrefixes = field(default_factory=ipam.PodPrefixes)
    theirs: list[objects.RemoteClusterConfiguration] | None = None  # its own peers

    @property
    def name(self) -> str:
        return self.configuration.metadata.name

    def tell(self, check: str, result: Result, message: str, how: str = "") -> None:
        self.checks.append(Check(f"peer {self.name}", check, result, message, how))

    def fail(self, check: str, error: MeshError) -> None:
        """A failure as its error tells it: a Refused says itself what to set."""
        if isinstance(error, Refused):
            self.tell(check, "FAIL", f"{error.where}: {error.found}", error.fix)
        else:
            self.tell(check, "FAIL", str(error), fix(type(error).__name__))


async def probe(client: Client, peer: objects.RemoteClusterConfiguration, timeout_s: float) -> Probe:
    """Every step that needs the peer alone; after one that fails the later ones are said to be left out."""
    found = Probe(peer)
    await _controller_may_read(client, found)
    try:
        await _steps(client, found, timeout_s)
    except MeshError as error:
        step = _STEPS[min(_reached(found), len(_STEPS) - 1)]
        found.fail(step, error)
        left = _STEPS[_reached(found) :]
        if left:
            found.tell("rest", "warn", f"not checked, since it takes the step before: {', '.join(left)}")
    _controller_says(found)
    return found


def _reached(found: Probe) -> int:
    """How many of the steps have told something."""
    told = {check.check for check in found.checks}
    return next((i for i, step in enumerate(_STEPS) if step not in told), len(_STEPS))


async def _steps(client: Client, found: Probe, timeout_s: float) -> None:
    content, where = await session.secret_content(client, found.configuration)
    found.tell("access Secret", "ok", f"{where} is there and holds a kubeconfig")
    access = await from_secret(content, where)
    found.tell("kubeconfig", "ok", f"credentials, CA and {access.server}, and nothing that is refused")
    _credential(found, access)
    async with session.bounded(access.server, timeout_s), session.client(access, timeout_s) as remote:
        version = await remote.server_version()
        _server(found, version, await _certificate_end(access, timeout_s))
        blocks = await _served_blocks(remote)
        await _rights(found, remote, blocks)
        namespace = await remote.get(resources.NAMESPACES, "kube-system")
        found.cluster_id = namespace.metadata.uid
        found.tell("cluster", "ok", f"its id is {found.cluster_id}")
        found.nodes, _ = await remote.list(resources.NODES)
        found.tell("nodes", "ok", f"{len(found.nodes)} are listed")
        await _prefixes(found, remote, blocks)
        with suppress(Forbidden, NotFound):  # an account of an older release, or a cluster without our kinds
            found.theirs, _ = await remote.list(resources.REMOTE_CLUSTER_CONFIGURATIONS)


def _credential(found: Probe, access: Access) -> None:
    end, now = access.expires_at, datetime.now(UTC)
    if end is None:
        found.tell("credential", "ok", "it tells no end")
        return
    if end > now + EXPIRY_WARNING:
        found.tell("credential", "ok", f"valid until {end:%Y-%m-%dT%H:%M:%SZ}")
        return
    result: Result = "FAIL" if end <= now else "warn"
    told = f"it {'ended' if end <= now else 'ends'} at {end:%Y-%m-%dT%H:%M:%SZ}"
    found.tell("credential", result, told, "rotate it: mesh.yml of the peer writes a new one")


async def _certificate_end(access: Access, timeout_s: float) -> datetime | None:
    """When the server's certificate ends; None where it does not tell."""
    url = urlsplit(access.server)
    host = url.hostname or ""
    with suppress(OSError, ValueError, KeyError):
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(
                host, url.port or 443, ssl=access.tls, server_hostname=access.tls_server_name or host
            )
        try:
            certificate = cast(SSLSocket, writer.get_extra_info("ssl_object")).getpeercert() or {}
            text = cast(str, certificate["notAfter"])
            return datetime.fromtimestamp(cert_time_to_seconds(text), UTC)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    return None


def _server(found: Probe, version: str, end: datetime | None) -> None:
    told = f"Kubernetes {version} answers"
    if end is not None and end < datetime.now(UTC) + EXPIRY_WARNING:
        told += f"; its certificate ends at {end:%Y-%m-%dT%H:%M:%SZ}"
        found.tell("API server", "warn", told, "renew the API server's certificate in that cluster")
        return
    found.tell("API server", "ok", told + (f", certificate until {end:%Y-%m-%d}" if end is not None else ""))


async def _served_blocks(remote: Client) -> resources.Resource[objects.IPAMBlock] | None:
    """Where the peer serves Calico's IPAM blocks; by discovery, since a kind that is not served may give 403."""
    for resource in resources.IPAM_BLOCKS:
        if await serves(remote, resource):
            return resource
    return None


async def _prefixes(found: Probe, remote: Client, blocks: resources.Resource[objects.IPAMBlock] | None) -> None:
    """Which pod prefixes its nodes have, from where the controller takes them."""
    nodes = found.nodes or []
    pieces = [ipam.block(block) for block in (await remote.list(blocks))[0]] if blocks is not None else []
    lacking = ipam.lacking(nodes)
    if ipam.has_blocks(pieces):
        found.prefixes = ipam.from_blocks(pieces)
        found.tell("pod prefixes", "ok", f"{len(pieces)} blocks of Calico's IPAM")
    elif lacking:
        pods = map(ipam.pod_addresses, (await remote.list(resources.PODS))[0])
        found.prefixes = ipam.from_pods(pod for pod in pods if pod.node in lacking)
        told = f"{len(lacking)} nodes have no podCIDRs; routes go by the addresses of their pods, one by one"
        found.tell("pod prefixes", "warn", told, "set --allocate-node-cidrs in that cluster, if its CNI uses them")
    else:
        found.tell("pod prefixes", "ok", "Node.spec.podCIDRs of every node")


async def _rights(found: Probe, remote: Client, blocks: resources.Resource[objects.IPAMBlock] | None) -> None:
    needed = reviews.NEEDED + (reviews.reading(blocks.group, blocks.plural) if blocks is not None else ())
    allowed = await reviews.own(remote, (*needed, *reviews.WANTED, *reviews.EXCESSIVE))
    grant = "apply the role mesh_access in the peer's cluster"
    missing = [str(right) for right in needed if not allowed[right]]
    if missing:
        found.tell("rights", "FAIL", f"the credential may not {', '.join(missing)}", grant)
    else:
        found.tell("rights", "ok", "the credential may read all that the controller reads")
    lacking = [str(right) for right in reviews.WANTED if not allowed[right]]
    if lacking:
        found.tell("rights for eval", "warn", f"the credential may not {', '.join(lacking)}", grant)
    excess = [str(right) for right in reviews.EXCESSIVE if allowed[right]]
    if excess:
        told = f"the credential may also {', '.join(excess)}, which no peer should have"
        found.tell("rights beyond", "warn", told, f"give the account {names.REMOTE_ACCESS_ACCOUNT} of mesh_access")


async def _controller_may_read(client: Client, found: Probe) -> None:
    """``kubectl auth can-i list secrets --as=...``: whether this cluster's controller gets at the Secret."""
    reference = found.configuration.spec.cluster_access_secret or objects.ClusterAccessSecret()
    rights = tuple(
        reviews.Right(verb, "", "secrets", reference.namespace, reference.name) for verb in ("get", "list", "watch")
    )
    account = f"{names.NAMESPACE}/{names.CONTROLLER_ACCOUNT}"
    try:
        await client.get(_SERVICE_ACCOUNTS, names.CONTROLLER_ACCOUNT, names.NAMESPACE)
        allowed = await reviews.controller(client, rights)
    except NotFound:
        told = f"there is no account {account}: the controller runs as somebody else, whose rights are not checked"
        found.tell("controller's right", "warn", told, "none where it runs well; else apply the role mesh_daemon")
        return
    except Forbidden:
        how = f"kubectl auth can-i list secrets -n {reference.namespace} --as system:serviceaccount:"
        how += account.replace("/", ":")
        found.tell("controller's right", "warn", "you may not ask what the controller may read", how)
        return
    missing = ", ".join(right.verb for right in rights if not allowed[right])
    if missing:
        told = f"the account {account} may not {missing} Secret {reference.namespace}/{reference.name}"
        found.tell("controller's right", "FAIL", told, "apply the role mesh_peering here")
    else:
        found.tell("controller's right", "ok", f"the account {account} may read the access Secret")


def _controller_says(found: Probe) -> None:
    """Whether the controller, where it runs, is in sync with the peer."""
    status = found.configuration.status
    for name in ("Connected", "Synced"):
        told = condition(status.conditions, name)
        if told.status != "True":
            message = told.message or "no controller has said anything about it"
            found.tell("controller", "FAIL", f"{name} is {told.status}: {told.reason}: {message}", fix(told.reason))
            return
    found.tell("controller", "ok", f"in sync since {_since(status)}")
    if status.cluster_id and found.cluster_id and status.cluster_id != found.cluster_id:
        other = f"the status names cluster {status.cluster_id}, the Secret leads to {found.cluster_id}"
        found.tell("cluster", "warn", other, "the Secret was changed just now, or by somebody: look at it")


def _since(status: objects.RemoteClusterConfigurationStatus) -> str:
    return condition(status.conditions, "Synced").last_transition_time


def identity(found: Probe, own_id: str, others: Iterable[Probe]) -> None:
    """A peer must be neither this very cluster nor one that has a configuration already."""
    if not found.cluster_id:
        return
    twin = next((other for other in others if other is not found and other.cluster_id == found.cluster_id), None)
    if found.cluster_id == own_id:
        found.tell("cluster", "FAIL", "the kubeconfig leads to this very cluster", "put the peer's kubeconfig there")
    elif twin is not None:
        found.tell("cluster", "FAIL", f"it is the cluster of {twin.name} too", "delete one of the two")
