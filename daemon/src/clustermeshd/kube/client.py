"""A thin client of one API server: typed reads, server-side apply, raw watch streams.

Bodies are decoded straight from bytes into structs; the kubernetes package gave address, TLS and credential (access).
Every request has a time-out. A watch is silent when nothing happens, and so is a dead server: after some silence on
all its connections a client asks the server whether it lives, once for all watches. TCP cannot tell that alone,
because the kernel of a hanging server still acknowledges; keep-alive probes cover a peer that is gone altogether.
What a server answers may be hostile: sizes, pages and decoding are bounded, and only errors of the tree get out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from clustermeshd.kube import access as accesses
from clustermeshd.kube import bodies, errors, objects
from clustermeshd.kube.access import Access
from clustermeshd.kube.http import aiohttp
from clustermeshd.kube.leftout import Why
from clustermeshd.kube.resources import Resource
from clustermeshd.model.errors import MeshError

_PAGE = 100  # objects at first; a slice has a hundred endpoints, and what a page takes is not given back to the system
_MOST_PAGE = 500  # of small ones
_PAGE_BYTES = 512 << 10
_LOG = logging.getLogger(__name__)

T = TypeVar("T", bound=objects.Object)

APPLY = "application/apply-patch+yaml"
_MAX_BODY = 64 << 20  # bytes of one answer (a page of a list)
_MAX_LINE = 8 << 20  # bytes of one watch event; etcd holds 1.5 MiB an object
_MAX_REQUEST_S = 300.0  # a page over a very slow line
_MAX_EMPTY_PAGES = 100
_POOL = 50
OVERSIZE = b""  # stands for a line of a watch that was too long
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
        self,
        access: Access,
        *,
        user_agent: str,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 15,
        silence_s: float = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``silence_s``: a watched server that says nothing for so long, although it was asked halfway, is dead."""
        self._access = access
        self._user_agent = user_agent
        self._timeout = aiohttp.ClientTimeout(
            total=_MAX_REQUEST_S,
            connect=3 * connect_timeout_s,  # a free place in the pool included
            sock_connect=connect_timeout_s,
            sock_read=read_timeout_s,
        )
        self._quiet_s = silence_s / 2
        self._clock = clock
        self._heard_at = clock()
        self._missed_at = -1.0
        self._session: aiohttp.ClientSession | None = None
        self._probing = asyncio.Lock()
        self._reloading = asyncio.Lock()

    @property
    def server(self) -> str:
        return self._access.server

    @property
    def silence_s(self) -> float:
        """Seconds since the server last said anything, to any request; a watched one is asked when it is silent."""
        return self._clock() - self._heard_at

    @property
    def access(self) -> Access:
        """What is used now; another one after credentials were read again."""
        return self._access

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
        return bodies.decode(body, resource.type, f"{resource.kind} {name}")

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = _PAGE,
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
        limit: int = _PAGE,
        max_objects: int = 2_000_000,
        max_object_bytes: int = _MAX_BODY,
        on_skip: Callable[[str, Why], None] | None = None,
        ahead: bool = False,
    ) -> AsyncIterator[objects.ObjectList[T]]:
        """A list, page by page (KEP-365): larger pages where objects are small, smaller ones where they are too large.

        ``on_skip`` gets key ("" where even that cannot be read) and reason of each object that is left out because
        it does not decode or is larger than ``max_object_bytes``. A list that goes on without end is Rejected. With
        ``ahead`` the next page is asked for while the caller looks at this one.
        """
        query = _selectors(label_selector, field_selector)
        decoder = msgspec.json.Decoder(objects.ObjectList[resource.type])  # type: ignore[name-defined]
        count = empty = 0
        may_grow = limit == _PAGE
        asked: asyncio.Task[bytes] | None = None

        def ask() -> Coroutine[Any, Any, bytes]:
            return self.request("GET", resource.path(namespace), query=query | {"limit": str(limit)})

        try:
            while True:
                try:
                    body = await (asked or ask())
                except errors.TooLarge:
                    if limit == 1:
                        raise
                    limit, may_grow, asked = max(1, limit // 8), False, None
                    continue
                asked = None
                page = bodies.page(body, resource, decoder, max_object_bytes, on_skip or bodies.log_skip(resource))
                found = len(page.items or ())
                count, empty = count + found, 0 if found else empty + 1
                if may_grow:
                    limit = max(_PAGE, min(_MOST_PAGE, _PAGE_BYTES * found // len(body)))
                del body
                query["continue"] = more = page.metadata.continue_ or ""
                is_endless = count > max_objects or empty > _MAX_EMPTY_PAGES
                if ahead and more and not is_endless:
                    asked = asyncio.create_task(ask())
                    await asyncio.sleep(0)  # it is on its way while this page is looked at
                yield page
                if not more:
                    return
                if is_endless:
                    told = f"{count} objects and no end"
                    raise errors.Rejected("ListTooLong", told, where=resource.kind, fix="is this a Kubernetes API?")
        finally:
            if asked is not None:
                asked.cancel()  # one that has failed is no more told as never looked at, then

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
        document = bodies.document(resource, body)
        answer = await self.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            query={"fieldManager": manager, "force": str(force).lower()},
            body=document,
            content_type=APPLY,
            accept=bodies.accept(resource),
        )
        return bodies.decode(answer, resource.type, f"{resource.kind} {name}")

    async def create(
        self, resource: Resource[T], body: Mapping[str, Any] | objects.Object, namespace: str | None = None
    ) -> T:
        answer = await self.request(
            "POST", resource.path(namespace), body=bodies.document(resource, body), accept=bodies.accept(resource)
        )
        return bodies.decode(answer, resource.type, resource.kind)

    async def replace(
        self,
        resource: Resource[T],
        body: Mapping[str, Any] | objects.Object,
        name: str,
        namespace: str | None = None,
        *,
        manager: str | None = None,
    ) -> T:
        """Update; a resourceVersion in ``body`` makes it fail with Conflict when somebody wrote in between."""
        answer = await self.request(
            "PUT",
            resource.path(namespace, name),
            query={"fieldManager": manager} if manager else None,
            body=bodies.document(resource, body),
            accept=bodies.accept(resource),
        )
        return bodies.decode(answer, resource.type, f"{resource.kind} {name}")

    async def delete(
        self,
        resource: Resource[Any],
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> bool:
        """Deletes the object; False when it is gone already.

        With ``uid`` only that very object, with ``resource_version`` only as it was read: else Conflict.
        """
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        wanted = {"uid": uid, "resourceVersion": resource_version}
        if any(wanted.values()):
            options["preconditions"] = {key: value for key, value in wanted.items() if value}
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
        except (*errors.UNDECODABLE, AttributeError):
            return ""

    # ---- the wire

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = bodies.JSON,
        accept: str = bodies.JSON,
    ) -> bytes:
        """Body of a successful answer; every failure as an error of the tree."""
        what = f"{method} {path}"
        async with self._open(method, path, query, body, content_type, accept) as response:
            content = await _read(response, what)
            if response.status < 300:
                return content
            raise errors.of_status(response.status, content, what, retry_after=response.headers.get("Retry-After"))

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, idle_timeout_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Lines of a watch, OVERSIZE for one that is too long.

        Unreachable when none came for ``idle_timeout_s``, or earlier when the server turns out to be dead.
        """
        limits = aiohttp.ClientTimeout(
            total=None,
            connect=self._timeout.connect,
            sock_connect=self._timeout.sock_connect,
            sock_read=idle_timeout_s,
        )
        what = f"WATCH {path}"
        async with self._open("GET", path, query, None, bodies.JSON, bodies.JSON, limits) as response:
            if response.status >= 300:
                content = await _read(response, what)
                raise errors.of_status(response.status, content, what, retry_after=response.headers.get("Retry-After"))
            yield self._lines(response, what)

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        accept: str,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        for last_try in (False, True):
            used = self._access
            headers = {"Accept": accept, "User-Agent": self._user_agent}
            if used.token:
                headers["Authorization"] = f"Bearer {used.token}"
            if body is not None:
                headers["Content-Type"] = content_type
            try:
                async with _translated(f"{method} {used.server}{path}"):
                    response = await self._open_session().request(
                        method,
                        f"{used.server}{path}",
                        params=query,
                        data=body,
                        headers=headers,
                        timeout=limits or self._timeout,
                        allow_redirects=False,
                        server_hostname=used.tls_server_name,
                    )
            except errors.Untrusted:
                if last_try or not await self._reload(used):
                    raise
                continue
            self._heard_at = self._clock()
            async with response, _translated(f"{method} {path}"):
                if response.status == 401 and not last_try and await self._reload(used):
                    continue
                yield response
                return

    async def _reload(self, used: Access) -> bool:
        """Reads the credential again where it came from; whether there is another one than the one ``used``."""
        if used.source is None and not used.in_cluster:
            return False
        async with self._reloading:
            if self._access is not used:
                return True
            try:
                fresh = await accesses.from_file(used.source, used.context)
            except MeshError as error:  # half written, or gone for a moment: what we have stays
                _LOG.warning("credential not read again: %s", error)
                return False
            if fresh.token == used.token and fresh.fingerprint == used.fingerprint:
                return False
            self._access = fresh
            await self.aclose()
            return True

    async def _lines(self, response: aiohttp.ClientResponse, what: str) -> AsyncIterator[bytes]:
        pending = bytearray()
        is_oversize = False
        async with _translated(what):
            while chunk := await self._chunk(response):
                *ends, rest = chunk.split(b"\n")
                for end in ends:
                    if is_oversize or len(pending) + len(end) > _MAX_LINE:
                        yield OVERSIZE
                    elif pending or end:
                        yield bytes(pending + end) if pending else end
                    is_oversize = False
                    pending.clear()
                pending += rest
                if len(pending) > _MAX_LINE:
                    is_oversize = True
                    pending.clear()

    async def _chunk(self, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes of a stream, b"" at its end; asks whether the server lives while there are none."""
        while True:
            try:
                async with asyncio.timeout(self._quiet_s) as quiet:
                    chunk = await response.content.readany()
            except TimeoutError:
                if not quiet.expired():
                    raise
                await self._ensure_alive()
            else:
                self._heard_at = self._clock()
                return chunk

    async def _ensure_alive(self) -> None:
        """Raises Unreachable unless the server said something lately, or does so now; any answer is a sign of life."""
        asked_at = self._clock()
        async with self._probing:
            if self._heard_at > asked_at - self._quiet_s:
                return
            if self._missed_at < asked_at:
                try:
                    async with asyncio.timeout(self._quiet_s):
                        await self.server_version()
                except (TimeoutError, errors.Unreachable):
                    self._missed_at = self._clock()
                except MeshError:
                    return
                else:
                    return
        raise errors.Unreachable(f"{self.server}: silent, and no answer when asked")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._access.tls,
                limit=_POOL,
                socket_factory=_socket,
                # of a server that does not answer the end of a connection
                enable_cleanup_closed=aiohttp.connector.NEEDS_CLEANUP_CLOSED,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),  # no peer makes us keep anything, or say it again
                trust_env=False,
                read_bufsize=1 << 16,
                auto_decompress=True,
            )
        return self._session


@asynccontextmanager
async def _translated(what: str) -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
        reason = getattr(getattr(error, "certificate_error", error), "verify_message", "") or type(error).__name__
        raise errors.Untrusted(
            "CertificateRefused", f"TLS: {reason}", where=what, fix="check the CA, the server name and the dates"
        ) from error
    except TimeoutError as error:
        raise errors.Unreachable(f"{what}: timed out") from error
    except (aiohttp.ClientError, OSError, UnicodeError) as error:  # UnicodeError: a host name that is none
        raise errors.Unreachable(f"{what}: {error or type(error).__name__}") from error


async def _read(response: aiohttp.ClientResponse, what: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(1 << 16):
        size += len(chunk)
        if size > _MAX_BODY:
            raise errors.TooLarge("AnswerTooLarge", f"more than {_MAX_BODY} bytes", where=what, fix="fewer objects")
        chunks.append(chunk)
    return b"".join(chunks)


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    pairs = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return {key: value for key, value in pairs if value}
