"""An API server that lies on demand: what a real one cannot be made to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from clustermeshd.kube.access import Access
from clustermeshd.kube.client import Client

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def config_map(name, version="1", **more):
    meta = {"name": name, "namespace": "d", "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **more}


def page(*items, version="10", more="", kind="ConfigMapList"):
    meta = {"resourceVersion": str(version), "continue": more}
    return web.json_response({"kind": kind, "metadata": meta, "items": list(items)})


def event(kind, thing):
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


class HostileServer:
    """Lists and watches of one kind are answered by ``on_list`` and ``on_watch``."""

    def __init__(self):
        self.url = ""
        self.open = set()
        self.lists = 0
        self.watches = 0
        self.on_list: Handler = self._empty
        self.on_watch: Handler = self.silence
        self.on_version: Handler = self._version

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.open.add(request.transport)
        if request.path == "/version":
            return await self.on_version(request)
        if "watch" not in request.query:
            self.lists += 1
            return await self.on_list(request)
        self.watches += 1
        return await self.on_watch(request)

    async def break_off(self) -> None:
        """Every connection that is open ends in the middle."""
        for one in list(self.open):
            one.abort()

    async def _empty(self, request):
        return page()

    async def _version(self, request):
        return web.json_response({"gitVersion": "v1.99.0"})

    async def silence(self, request):
        """Headers, and then nothing for ever."""
        return await self.say(request)

    async def say(self, request, *chunks: bytes, end: bool = False) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if not end:
            await asyncio.Event().wait()
        return response


@contextlib.asynccontextmanager
async def hostile(tls: ssl.SSLContext | None = None) -> AsyncIterator[HostileServer]:
    server = HostileServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def client(server: HostileServer, **timeouts: float) -> AsyncIterator[Client]:
    access = Access(server=server.url, tls=ssl.create_default_context())
    async with Client(access, user_agent="t", **({"read_timeout_s": 2} | timeouts)) as made:
        yield made
