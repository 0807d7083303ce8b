"""API servers that only store and tell watches, for more clusters, or more changes, than real ones here would bear.

One thread serves all of them over TLS, each below its own path. Objects live in memory and are merged field by field
at the top, without admission, defaults or field ownership; lists come in one page. A token appears in a Secret of that
type at once, and a definition is established.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web
from clustermesh_lab.pki import Authority

_OBJECT = re.compile(r"(/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([^/]+)(?:/([^/]+))?(?:/(status))?")
_GROUPS = {
    "/apis/clustermesh.io/v1alpha1": (("RemoteClusterConfiguration", "remoteclusterconfigurations", False),),
    "/apis/apiextensions.k8s.io/v1": (("CustomResourceDefinition", "customresourcedefinitions", False),),
    "/apis/rbac.authorization.k8s.io/v1": (
        ("ClusterRole", "clusterroles", False),
        ("ClusterRoleBinding", "clusterrolebindings", False),
        ("Role", "roles", True),
        ("RoleBinding", "rolebindings", True),
    ),
    "/api/v1": (
        ("Namespace", "namespaces", False),
        ("Secret", "secrets", True),
        ("ServiceAccount", "serviceaccounts", True),
    ),
}
_HISTORY = 20_000  # events of a collection that a watch may still ask for

T = TypeVar("T")


class Stored(NamedTuple):
    """An object: what selectors ask for, and all of it as it goes over the wire."""

    metadata: dict[str, Any]
    raw: bytes


class _Collection:
    """Objects of one kind in one cluster, and who watches them."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Stored] = {}
        self.events: deque[tuple[int, str, Stored]] = deque(maxlen=_HISTORY)
        self.watches: set[asyncio.Queue[tuple[int, str, Stored]]] = set()

    def tell(self, version: int, kind: str, thing: Stored) -> None:
        self.events.append((version, kind, thing))
        for watch in self.watches:
            watch.put_nowait((version, kind, thing))


class _Cluster:
    """What one of the servers stores; not to be touched but in its loop once it serves."""

    def __init__(self, wrote: Callable[[str, Stored], None]) -> None:
        self.version = 1
        self._wrote = wrote
        self._collections: dict[str, _Collection] = {}

    def collection(self, group: str, plural: str) -> _Collection:
        return self._collections.setdefault(f"{group}/{plural}", _Collection())

    def write(self, path: str, body: dict[str, Any]) -> Stored:
        """Creates or merges; fields of ``body`` may be ``msgspec.Raw``."""
        group, namespace, plural, name, _ = _parsed(path)
        metadata = body.pop("metadata", None) or {}
        metadata = msgspec.json.decode(metadata) if isinstance(metadata, msgspec.Raw) else metadata
        collection = self.collection(group, plural)
        key = (namespace, name or metadata.get("name") or f"{metadata.get('generateName', '')}{self.version}")
        before = collection.objects.get(key)
        self.version += 1
        known: dict[str, Any] = before.metadata if before else _born()
        kept = msgspec.json.decode(before.raw, type=dict[str, msgspec.Raw]) if before else {}
        made = {**known, **metadata, "name": key[1], "uid": known["uid"], "resourceVersion": str(self.version)}
        if namespace:
            made["namespace"] = namespace
        thing = Stored(made, msgspec.json.encode({**kept, **body, **_completed(body, made), "metadata": made}))
        collection.objects[key] = thing
        collection.tell(self.version, "MODIFIED" if before else "ADDED", thing)
        self._wrote(plural, thing)
        return thing

    def delete(self, path: str) -> Stored | None:
        group, namespace, plural, name, _ = _parsed(path)
        collection = self.collection(group, plural)
        thing = collection.objects.pop((namespace, name), None)
        if thing is not None:
            self.version += 1
            collection.tell(self.version, "DELETED", thing)
            self._wrote(plural, thing)
        return thing


class SimulatedClusters:
    """A context manager; ``writes`` counts requests that changed something, by cluster.

    ``on_write`` gets cluster, plural and object of each, in the thread that serves.
    """

    def __init__(
        self, names: Sequence[str], directory: Path, *, on_write: Callable[[str, str, Stored], None] | None = None
    ) -> None:
        self.writes: Counter[str] = Counter()
        self._on_write = on_write
        self._authority = Authority(directory / "pki", "simulated")
        self._clusters = {name: _Cluster(self._wrote(name)) for name in names}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._serves = threading.Event()
        self._port = 0

    def __enter__(self) -> SimulatedClusters:
        self._thread.start()
        self._serves.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Does something in the thread that serves."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def store(self, name: str, path: str, bodies: Iterable[dict[str, Any]]) -> None:
        """Writes objects into a collection; nothing that is counted. To be called from the thread that serves."""
        before = self.writes[name]
        for body in bodies:
            self._clusters[name].write(f"{path}/{body['metadata']['name']}", {**body})
        self.writes[name] = before

    def stored(self, name: str, path: str) -> list[Stored]:
        """Objects of a collection."""
        group, namespace, plural, *_ = _parsed(path)
        return [
            thing
            for key, thing in self._clusters[name].collection(group, plural).objects.items()
            if key[0] == namespace
        ]

    def kubeconfig(self, name: str) -> Path:
        """Access to one of them."""
        url = f"https://127.0.0.1:{self._port}/{name}"
        return self._authority.kubeconfig(f"client-{name}", url, "admin", ["system:masters"], context=name)

    def _wrote(self, name: str) -> Callable[[str, Stored], None]:
        def wrote(plural: str, thing: Stored) -> None:
            self.writes[name] += 1
            if self._on_write is not None:
                self._on_write(name, plural, thing)

        return wrote

    async def _serve(self) -> None:
        certificate, key = self._authority.issue("server", "simulated", names=["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        self._port = runner.addresses[0][1]
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._serves.set()
        await self._ended.wait()
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        _, name, rest = unquote(request.path).split("/", 2)
        cluster, path = self._clusters[name], f"/{rest}"
        if request.method == "GET":
            if "watch" in request.query:
                return await _watch(request, cluster, path)
            return _json(*_read(cluster, path, request.query))
        found = _OBJECT.fullmatch(path)
        if found is None or not _is_served(path):
            return _json(404)
        if request.method == "DELETE":
            gone = cluster.delete(path)
            return _json(404) if gone is None else _json(200, gone.raw)
        body = msgspec.json.decode(await request.read(), type=dict[str, msgspec.Raw])
        thing = cluster.write(path, dict(body))
        is_bare = "PartialObjectMetadata" in request.headers.get("Accept", "")
        return _json(200, msgspec.json.encode({"metadata": thing.metadata}) if is_bare else thing.raw)


def _read(cluster: _Cluster, path: str, query: Any) -> tuple[int, bytes]:  # a multidict
    if path in _GROUPS:
        resources = [{"kind": k, "name": p, "namespaced": n} for k, p, n in _GROUPS[path]]
        return 200, json.dumps({"resources": resources}).encode()
    if path == "/version":
        return 200, b'{"gitVersion": "v1.36.0", "major": "1", "minor": "36"}'
    if _OBJECT.fullmatch(path) is None or not _is_served(path):
        return 404, b""
    group, namespace, plural, name, _ = _parsed(path)
    collection = cluster.collection(group, plural)
    if name:
        found = collection.objects.get((namespace, name))
        return (404, b"") if found is None else (200, found.raw)
    chosen = _chooser(namespace, query)
    items = b",".join(thing.raw for thing in collection.objects.values() if chosen(thing))
    return 200, b'{"metadata":{"resourceVersion":"%d"},"items":[%b]}' % (cluster.version, items)


async def _watch(request: web.BaseRequest, cluster: _Cluster, path: str) -> web.StreamResponse:
    if _OBJECT.fullmatch(path) is None or not _is_served(path):
        return _json(404)
    group, namespace, plural, _, _ = _parsed(path)
    collection, chosen = cluster.collection(group, plural), _chooser(namespace, request.query)
    since = int(request.query.get("resourceVersion") or cluster.version)
    queue: asyncio.Queue[tuple[int, str, Stored]] = asyncio.Queue()
    for event in collection.events:
        if event[0] > since:
            queue.put_nowait(event)
    collection.watches.add(queue)
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    answer.enable_chunked_encoding()
    try:
        await answer.prepare(request)
        while True:
            _, kind, thing = await queue.get()
            if chosen(thing):
                await answer.write(b'{"type":"%b","object":%b}\n' % (kind.encode(), thing.raw))
    finally:
        collection.watches.discard(queue)


def _chooser(namespace: str, query: Any) -> Callable[[Stored], bool]:  # a multidict
    terms = [term.partition("=") for term in query.get("labelSelector", "").split(",") if term]
    field = query.get("fieldSelector", "").partition("metadata.name=")[2]

    def chosen(thing: Stored) -> bool:
        metadata = thing.metadata
        labels = metadata.get("labels") or {}
        return (
            namespace in ("", metadata.get("namespace", ""))
            and field in ("", metadata["name"])
            and all(
                labels.get(key[:-1]) != value if key.endswith("!") else labels.get(key) == value
                for key, _, value in terms
            )
        )

    return chosen


def _parsed(path: str) -> tuple[str, str, str, str, str]:
    """Group and version, namespace, plural, name and subresource of a path; "" for what it has not."""
    found = _OBJECT.fullmatch(path)
    if found is None:
        raise ValueError(path)
    group, namespace, plural, name, subresource = (part or "" for part in found.groups())
    return group, namespace, plural, name, subresource


def _is_served(path: str) -> bool:
    return "projectcalico" not in path


def _born() -> dict[str, Any]:
    return {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}


def _completed(body: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """What controllers of a real cluster add."""
    kind = body.get("kind")
    if kind == msgspec.Raw(b'"CustomResourceDefinition"'):
        return {"status": {"conditions": [{"type": "Established", "status": "True"}]}}
    if body.get("type") == msgspec.Raw(b'"kubernetes.io/service-account-token"'):
        return {"data": {"token": base64.b64encode(f"token-{metadata['uid']}".encode()).decode()}}
    return {}


def _json(status: int, body: bytes = b"") -> web.Response:
    return web.Response(
        status=status, body=body or b'{"message":"not found"}', headers={"Content-Type": "application/json"}
    )
