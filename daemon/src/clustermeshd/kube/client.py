"""A thin client of one API server: typed reads, server-side apply, raw watch streams.

Bodies are decoded straight from bytes into structs; the kubernetes package gave address, TLS and credential (access).
Every request has a time-out, and a dead peer is noticed by TCP even while a watch is silent: keep-alive probes and a
bound on unacknowledged data end a half-open connection within 30 s.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import msgspec

from clustermeshd.kube import access as accesses
from clustermeshd.kube import errors, objects
from clustermeshd.kube.access import Access
from clustermeshd.kube.resources import Resource

_LOG = logging.getLogger(__name__)

T = TypeVar("T", bound=objects.Object)

APPLY = "application/apply-patch+yaml"
_MAX_BODY = 64 << 20  # bytes of one answer (a page of a list)
_MAX_LINE = 8 << 20  # bytes of one watch event; etcd holds 1.5 MiB an object
_POOL = 50
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = info
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    for level, option, value in _SOCKET_OPTIONS:
        sock.setsockopt(level, option, value)
    return sock


class Client:
    """One API server, as one identity. To be used as an async context manager, or closed with ``aclose``."""

    def __init__(
        self, access: Access, *, user_agent: str, connect_timeout_s: float = 5, read_timeout_s: float = 15
    ) -> None:
        self._access = access
        self._user_agent = user_agent
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s)
        self._session: aiohttp.ClientSession | None = None

    @property
    def server(self) -> str:
        return self._access.server

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ---- typed requests

    async def get(self, resource: Resource[T], name: str, namespace: str | None = None) -> T:
        body = await self.request("GET", resource.path(namespace, name))
        return _decode(body, resource.type, f"{resource.kind} {name}")

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = 500,
    ) -> tuple[list[T], str]:
        """All objects and the resourceVersion to watch from; pages of ``limit``, begun again when they expire."""
        for attempt in range(3):
            items: list[T] = []
            try:
                async for page in self.pages(
                    resource, namespace, label_selector=label_selector, field_selector=field_selector, limit=limit
                ):
                    items.extend(page.items or ())
                    version = page.metadata.resource_version
            except errors.Expired:
                if attempt == 2:
                    raise
                continue
            return items, version
        raise AssertionError("unreachable")

    async def pages(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = 500,
    ) -> AsyncIterator[objects.ObjectList[T]]:
        """A list, page by page (KEP-365)."""
        query = _selectors(label_selector, field_selector) | {"limit": str(limit)}
        decoder = msgspec.json.Decoder(objects.ObjectList[resource.type])  # type: ignore[name-defined]
        while True:
            body = await self.request("GET", resource.path(namespace), query=query)
            try:
                page: objects.ObjectList[T] = decoder.decode(body)
            except msgspec.DecodeError:
                page = _tolerant(body, resource)
            yield page
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def apply(
        self,
        resource: Resource[T],
        body: Mapping[str, Any] | objects.Object,
        *,
        manager: str,
        name: str,
        namespace: str | None = None,
        subresource: str | None = None,
        force: bool = True,
    ) -> T:
        """Server-side apply (KEP-555): creates or brings the fields of ``body`` about, owned by ``manager``."""
        document = _document(resource, body)
        answer = await self.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            query={"fieldManager": manager, "force": str(force).lower()},
            body=document,
            content_type=APPLY,
        )
        return _decode(answer, resource.type, f"{resource.kind} {name}")

    async def create(
        self, resource: Resource[T], body: Mapping[str, Any] | objects.Object, namespace: str | None = None
    ) -> T:
        answer = await self.request("POST", resource.path(namespace), body=_document(resource, body))
        return _decode(answer, resource.type, resource.kind)

    async def replace(
        self, resource: Resource[T], body: Mapping[str, Any] | objects.Object, name: str, namespace: str | None = None
    ) -> T:
        """Update; a resourceVersion in ``body`` makes it fail with Conflict when somebody wrote in between."""
        answer = await self.request("PUT", resource.path(namespace, name), body=_document(resource, body))
        return _decode(answer, resource.type, f"{resource.kind} {name}")

    async def delete(
        self, resource: Resource[Any], name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> bool:
        """Deletes the object, with ``uid`` only that very one; False when it is gone already."""
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self.request("DELETE", resource.path(namespace, name), body=msgspec.json.encode(options))
        except errors.NotFound:
            return False
        return True

    async def server_version(self) -> str:
        """``gitVersion`` of the server."""
        body = await self.request("GET", "/version")
        try:
            return str(msgspec.json.decode(body).get("gitVersion", ""))[:64]
        except (msgspec.DecodeError, AttributeError):
            return ""

    # ---- the wire

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Body of a successful answer; every failure as an error of the tree."""
        what = f"{method} {path}"
        async with self._open(method, path, query, body, content_type) as response:
            content = await _read(response, what)
            if response.status < 400:
                return content
            retry_after = response.headers.get("Retry-After")
            raise errors.of_status(response.status, content, what, retry_after=retry_after)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, idle_timeout_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Lines of a watch; Unreachable when none came for ``idle_timeout_s``."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.sock_connect, sock_read=idle_timeout_s)
        what = f"WATCH {path}"
        async with self._open("GET", path, query, None, "application/json", limits) as response:
            if response.status >= 400:
                content = await _read(response, what)
                raise errors.of_status(response.status, content, what, retry_after=response.headers.get("Retry-After"))
            yield _lines(response, what)

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        for last_try in (False, True):
            session = self._open_session()
            headers = {"Accept": "application/json", "User-Agent": self._user_agent}
            if self._access.token:
                headers["Authorization"] = f"Bearer {self._access.token}"
            if body is not None:
                headers["Content-Type"] = content_type
            async with _translated(f"{method} {self._access.server}{path}"):
                response = await session.request(
                    method,
                    f"{self._access.server}{path}",
                    params=query,
                    data=body,
                    headers=headers,
                    timeout=limits or self._timeout,
                    allow_redirects=False,
                    server_hostname=self._access.tls_server_name,
                )
            async with response, _translated(f"{method} {path}"):
                if response.status == 401 and not last_try and await self._reload():
                    continue
                yield response
                return

    async def _reload(self) -> bool:
        """Reads the credential again where it came from; whether it is another one."""
        if self._access.source is None and not self._access.in_cluster:
            return False
        fresh = await accesses.from_file(self._access.source, self._access.context)
        changed = fresh.token != self._access.token or fresh.fingerprint != self._access.fingerprint
        if changed:
            self._access = fresh
            await self.aclose()
        return changed

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._access.tls, limit=_POOL, socket_factory=_socket)
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=False, read_bufsize=1 << 16, auto_decompress=True
            )
        return self._session


@asynccontextmanager
async def _translated(what: str) -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError) as error:
        reason = getattr(getattr(error, "certificate_error", error), "verify_message", "") or type(error).__name__
        raise errors.Untrusted(
            "CertificateRefused", f"TLS: {reason}", where=what, fix="check the CA, the server name and the dates"
        ) from error
    except TimeoutError as error:
        raise errors.Unreachable(f"{what}: timed out") from error
    except (aiohttp.ClientError, OSError) as error:
        raise errors.Unreachable(f"{what}: {error or type(error).__name__}") from error


async def _read(response: aiohttp.ClientResponse, what: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(1 << 16):
        size += len(chunk)
        if size > _MAX_BODY:
            raise errors.Rejected("AnswerTooLarge", f"more than {_MAX_BODY} bytes", where=what, fix="fewer objects")
        chunks.append(chunk)
    return b"".join(chunks)


async def _lines(response: aiohttp.ClientResponse, what: str) -> AsyncIterator[bytes]:
    """Lines of a stream, bounded in length."""
    pending = bytearray()
    async with _translated(what):
        async for chunk in response.content.iter_any():
            pending += chunk
            *complete, rest = pending.split(b"\n")
            for line in complete:
                if line:
                    yield bytes(line)
            pending = bytearray(rest)
            if len(pending) > _MAX_LINE:
                raise errors.Busy(f"{what}: an event of more than {_MAX_LINE} bytes")


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    pairs = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return {key: value for key, value in pairs if value}


def _document(resource: Resource[Any], body: Mapping[str, Any] | objects.Object) -> bytes:
    document = body if isinstance(body, Mapping) else msgspec.to_builtins(body)
    return msgspec.json.encode({"apiVersion": resource.api_version, "kind": resource.kind, **document})


def _decode(body: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise errors.Rejected("AnswerInvalid", str(error), where=what, fix="is this a Kubernetes API?") from error


def _tolerant(body: bytes, resource: Resource[T]) -> objects.ObjectList[T]:
    """A list of which some objects do not decode: they are left out, the rest stays."""
    try:
        raw = msgspec.json.decode(body, type=objects.RawList)
    except msgspec.DecodeError as error:
        raise errors.Rejected(
            "AnswerInvalid", str(error), where=resource.kind, fix="is this a Kubernetes API?"
        ) from error
    items = []
    for item in raw.items or ():
        try:
            items.append(msgspec.json.decode(item, type=resource.type))
        except msgspec.DecodeError as error:
            _LOG.warning("%s left out: %s", resource.kind, error)
    return objects.ObjectList(metadata=raw.metadata, items=tuple(items))
