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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web
from clustermesh_lab.pki import Authority
from clustermeshd.kube import resources

_OBJECT = re.compile(r"(/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([^/]+)(?:/([^/]+))?(?:/status)?")
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
_KINDS = {r.plural: r.kind for r in vars(resources).values() if isinstance(r, resources.Resource)}
_KINDS |= {plural: kind for group in _GROUPS.values() for kind, plural, _ in group}
_HISTORY = 2_000  # events of a collection that a watch may still ask for

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


class _Place(NamedTuple):
    """What a path leads to; "" for what it has not."""

    group: str
    namespace: str
    plural: str
    name: str


class _Cluster:
    """What one of the servers stores; not to be touched but in its loop once it serves."""

    def __init__(self) -> None:
        self.version = 1
        self._collections: dict[str, _Collection] = {}

    def collection(self, place: _Place) -> _Collection:
        return self._collections.setdefault(f"{place.group}/{place.plural}", _Collection())

    def write(self, place: _Place, body: dict[str, Any]) -> Stored:
        """Creates or merges; fields of ``body`` may be ``msgspec.Raw``."""
        metadata = body.pop("metadata", None) or {}
        metadata = msgspec.json.decode(metadata) if isinstance(metadata, msgspec.Raw) else metadata
        collection = self.collection(place)
        key = (
            place.namespace,
            place.name or metadata.get("name") or f"{metadata.get('generateName', '')}{self.version}",
        )
        before = collection.objects.get(key)
        self.version += 1
        known: dict[str, Any] = before.metadata if before else _born()
        kept = msgspec.json.decode(before.raw, type=dict[str, msgspec.Raw]) if before else {}
        made = {**known, **metadata, "name": key[1], "uid": known["uid"], "resourceVersion": str(self.version)}
        if place.namespace:
            made["namespace"] = place.namespace
        thing = Stored(made, msgspec.json.encode({**kept, **body, **_completed(body, made), "metadata": made}))
        collection.objects[key] = thing
        collection.tell(self.version, "MODIFIED" if before else "ADDED", thing)
        return thing

    def delete(self, place: _Place) -> Stored | None:
        collection = self.collection(place)
        thing = collection.objects.pop((place.namespace, place.name), None)
        if thing is not None:
            self.version += 1
            collection.tell(self.version, "DELETED", thing)
        return thing


class SimulatedClusters:
    """A context manager; ``writes`` counts requests that changed something, by cluster.

    ``on_write`` gets cluster, plural and object of each, in the thread that serves.
    """

    def __init__(self, names: Sequence[str], directory: Path) -> None:
        self.writes: Counter[str] = Counter()
        self.on_write: Callable[[str, str, Stored], None] = lambda *_: None
        self._authority = Authority(directory / "pki", "simulated")
        self._clusters = {name: _Cluster() for name in names}
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

    def store(self, name: str, collection: str, body: dict[str, Any]) -> None:
        """Writes an object, which is no request. To be called from the thread that serves."""
        self._clusters[name].write(_place(collection), {**body})

    def stored(self, name: str, collection: str) -> list[Stored]:
        """Objects of a collection."""
        place = _place(collection)
        found = self._clusters[name].collection(place).objects
        return [thing for (namespace, _), thing in found.items() if namespace == place.namespace]

    def kubeconfig(self, name: str) -> Path:
        """Access to one of them."""
        url = f"https://127.0.0.1:{self._port}/{name}"
        return self._authority.kubeconfig(f"client-{name}", url, "admin", ["system:masters"], context=name)

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
        if (known := _discovery(path)) is not None:
            return _json(200, known)
        if _OBJECT.fullmatch(path) is None or "projectcalico" in path:
            return _json(404)
        place = _place(path)
        if request.method == "GET":
            if "watch" in request.query:
                return await _watch(request, cluster, place)
            return _read(cluster, place, request.query)
        if request.method == "DELETE":
            thing = cluster.delete(place)
            if thing is None:
                return _json(404)
        else:
            body = msgspec.json.decode(await request.read(), type=dict[str, msgspec.Raw])
            thing = cluster.write(place, dict(body))
        self.writes[name] += 1
        self.on_write(name, place.plural, thing)
        is_bare = "PartialObjectMetadata" in request.headers.get("Accept", "")
        return _json(200, msgspec.json.encode({"metadata": thing.metadata}) if is_bare else thing.raw)


def _discovery(path: str) -> bytes | None:
    if path == "/version":
        return b'{"gitVersion": "v1.36.0", "major": "1", "minor": "36"}'
    versions = [place.removeprefix("/apis/") for place in _GROUPS if place.startswith("/apis/")]
    if path == "/apis":
        groups = [{"name": v.split("/")[0], "versions": [{"groupVersion": v}]} for v in versions]
        return json.dumps({"kind": "APIGroupList", "groups": groups}).encode()
    if path not in _GROUPS:
        return None
    known = [{"kind": k, "name": p, "namespaced": n} for k, p, n in _GROUPS[path]]
    version = path.removeprefix("/apis/").removeprefix("/api/")
    return json.dumps({"kind": "APIResourceList", "groupVersion": version, "resources": known}).encode()


def _read(cluster: _Cluster, place: _Place, query: Mapping[str, str]) -> web.Response:
    found = cluster.collection(place).objects
    if place.name:
        thing = found.get((place.namespace, place.name))
        return _json(404) if thing is None else _json(200, thing.raw)
    chosen = _chooser(place.namespace, query)
    items = b",".join(thing.raw for thing in found.values() if chosen(thing))
    kind = _KINDS.get(place.plural, "").encode()
    head = b'{"kind":"%bList","metadata":{"resourceVersion":"%d"},' % (kind, cluster.version)
    return _json(200, head + b'"items":[%b]}' % items)


async def _watch(request: web.BaseRequest, cluster: _Cluster, place: _Place) -> web.StreamResponse:
    collection, chosen = cluster.collection(place), _chooser(place.namespace, request.query)
    since = int(request.query.get("resourceVersion") or cluster.version)
    if len(collection.events) == _HISTORY and collection.events[0][0] > since + 1:
        return _json(410)
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


def _chooser(namespace: str, query: Mapping[str, str]) -> Callable[[Stored], bool]:
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


def _place(path: str) -> _Place:
    found = _OBJECT.fullmatch(path)
    if found is None:
        raise ValueError(path)
    return _Place(*(part or "" for part in found.groups()))


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
    return web.Response(status=status, body=body or b"{}", headers={"Content-Type": "application/json"})
