"""Clients of the commands: the local cluster by the caller's kubeconfig, peers by their access Secrets.

A peer is asked with the very credential that the controller uses, so a failure here names what the controller would
stumble over. All peers are asked at once: a dead one costs one time-out, and never the answer of another.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import yaml

from clustermeshd import __version__
from clustermeshd.kube import objects, resources
from clustermeshd.kube.access import Access, from_file, from_secret
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Forbidden, NotFound, Unreachable
from clustermeshd.kube.kubeconfigs import kubeconfig_in
from clustermeshd.model.errors import Fatal, MeshError, Refused

T = TypeVar("T")
_ANSWERS_S = 6  # a whole question to a peer takes at most so many time-outs, however slowly it answers


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a peer said, or why it said nothing: exactly one of the two."""

    peer: str
    value: T | None
    error: MeshError | None


def client(access: Access, timeout_s: float) -> Client:
    """A client that waits at most ``timeout_s`` for a connection and for each piece of an answer."""
    return Client(
        access, user_agent=f"clustermesh/{__version__}", connect_timeout_s=timeout_s, read_timeout_s=timeout_s
    )


async def local(kubeconfig: Path | None, context: str | None) -> Access:
    """Access of the caller: the named file, $KUBECONFIG, ~/.kube/config, or inside a pod its service account."""
    try:
        return await from_file(kubeconfig or _default(), context)
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # a YAML file, and yet no kubeconfig
        raise Fatal(f"kubeconfig {kubeconfig or _default()}: {type(error).__name__}: it is no kubeconfig") from None


def _default() -> Path | None:
    named = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    if len(named) > 1:
        raise Fatal(f"$KUBECONFIG names {len(named)} files; name one with --kubeconfig")
    if named:
        return Path(named[0])
    home = Path.home() / ".kube" / "config"
    return None if not home.exists() and "KUBERNETES_SERVICE_HOST" in os.environ else home


def namespace_of(kubeconfig: Path | None, context: str | None) -> str:
    """Namespace that the context of the caller's kubeconfig sets, or ``default``."""
    with suppress(OSError, yaml.YAMLError, TypeError, ValueError, KeyError, AttributeError, StopIteration):
        path = kubeconfig or _default()
        document = yaml.safe_load(path.read_bytes()) if path is not None else {}
        wanted = context or document["current-context"]
        found = next(c["context"] for c in document["contexts"] if c["name"] == wanted)
        return str(found.get("namespace") or "default")
    return "default"


async def peers(local_client: Client) -> list[objects.RemoteClusterConfiguration]:
    """All RemoteClusterConfigurations; a cluster that does not know the kind is told as such."""
    try:
        found, _ = await local_client.list(resources.REMOTE_CLUSTER_CONFIGURATIONS)
    except NotFound as error:
        raise Fatal(
            "this cluster is in no mesh: RemoteClusterConfiguration of clustermesh.io/v1alpha1 is not served; "
            "install the kinds with the role mesh_crds, or name another cluster with --kubeconfig or --context"
        ) from error
    return sorted(found, key=lambda peer: peer.metadata.name)


async def secret_content(local_client: Client, peer: objects.RemoteClusterConfiguration) -> tuple[bytes, str]:
    """Kubeconfig in a peer's access Secret, and the words for where it was found."""
    reference = peer.spec.cluster_access_secret or objects.ClusterAccessSecret()
    if not reference.name or not reference.namespace:
        where = f"RemoteClusterConfiguration {peer.metadata.name}"
        raise Refused("SecretNotNamed", "spec.clusterAccessSecret is empty", where=where, fix="name the access Secret")
    where = f"Secret {reference.namespace}/{reference.name}"
    try:
        secret = await local_client.get(resources.SECRETS, reference.name, reference.namespace)
    except Forbidden as error:
        raise Forbidden(f"{where}: you may not read it; ask somebody who may, or use their kubeconfig") from error
    except NotFound as error:
        fix = f"create it with the key kubeconfig, or correct spec.clusterAccessSecret of {peer.metadata.name}"
        raise Refused("SecretMissing", "there is no such Secret", where=where, fix=fix) from error
    return kubeconfig_in(secret.data or {}, where), where


async def ask(
    local_client: Client,
    configurations: Sequence[objects.RemoteClusterConfiguration],
    question: Callable[[Client, objects.RemoteClusterConfiguration], Awaitable[T]],
    *,
    timeout_s: float,
) -> list[Answer[T]]:
    """Asks all peers at once, in the order given; none fails for another's sake."""

    async def one(peer: objects.RemoteClusterConfiguration) -> Answer[T]:
        try:
            access = await from_secret(*await secret_content(local_client, peer))
            async with bounded(access.server, timeout_s), client(access, timeout_s) as remote:
                return Answer(peer.metadata.name, await question(remote, peer), None)
        except MeshError as error:
            return Answer(peer.metadata.name, None, error)

    return list(await asyncio.gather(*map(one, configurations)))


@asynccontextmanager
async def bounded(server: str, timeout_s: float) -> AsyncIterator[None]:
    """Unreachable for a server whose answers together take more than a few time-outs."""
    limit_s = _ANSWERS_S * timeout_s
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise Unreachable(f"{server}: not done within {limit_s:g} s; see --timeout") from error
