"""A real API server behind somebody who refuses, breaks off and lies: what no real one can be made to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiohttp import web
from clustermesh_lab import ControlPlane
from controller_model import Json


class Liar:
    """Passes requests on as the admin of ``plane``.

    ``refuse`` maps a path and its query to an HTTP status, 0 = pass on. ``rewrite`` changes every object that is told.
    ``lines`` is how many lines of a watch are told before the connection breaks, None = all. ``asked`` has the path
    and query of every request.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self.asked: list[str] = []
        self.refuse: Callable[[str], int] = lambda _: 0
        self.rewrite: Callable[[Json], Json] = lambda thing: thing
        self.lines: int | None = None
        self.url = ""
        self._plane = plane
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.show(*plane.pki.issue("liar", "liar", names=["127.0.0.1"]))
        self._told: set[web.StreamResponse] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def show(self, certificate: Path, key: Path) -> None:
        """The certificate of connections from now on."""
        self._tls.load_cert_chain(certificate, key)

    def kubeconfig(self, ca: str = "") -> str:
        """Kubeconfig that leads here; ``ca`` in place of the cluster's own (PEM in base64)."""
        config = json.loads(self._plane.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = self.url
        if ca:
            config["clusters"][0]["cluster"]["certificate-authority-data"] = ca
        return json.dumps(config)

    def break_off(self) -> None:
        """Every connection that is open ends in the middle."""
        self._loop.call_soon_threadsafe(self._break)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        pki = self._plane.pki.directory
        upstream = ssl.create_default_context(cafile=str(self._plane.ca))
        upstream.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        connector = aiohttp.TCPConnector(ssl=upstream, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=1 << 24)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        self._break()
        await self._runner.cleanup()
        await self._session.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _break(self) -> None:
        for server in self._runner.server.connections if self._runner.server else ():
            if server.transport is not None:
                server.transport.abort()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        status = self.refuse(request.path_qs)
        if status:
            body = {"kind": "Status", "code": status, "message": "not now"}
            return web.json_response(body, status=status, headers={"Retry-After": "1"})
        body = await request.read() or None
        headers = {"Content-Type": request.content_type} if body else {}
        async with self._session.request(
            request.method, self._plane.url + request.path_qs, data=body, headers=headers
        ) as answer:
            if answer.status != 200:
                return web.Response(body=await answer.read(), status=answer.status)
            if "watch" in request.query:
                return await self._stream(request, answer)
            told = await answer.json(content_type=None)
            if "items" in told:
                kind = {"kind": told["kind"].removesuffix("List")}
                told["items"] = [self.rewrite(item | kind) for item in told["items"] or ()]
            elif "metadata" in told:
                told = self.rewrite(told)
            return web.json_response(told)

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        count = 0
        with contextlib.suppress(ConnectionError):  # whoever asked has gone
            async for line in answer.content:
                event = json.loads(line)
                if event.get("type") != "BOOKMARK" and "object" in event:
                    event["object"] = self.rewrite(event["object"])
                await response.write(json.dumps(event).encode() + b"\n")
                count += 1
                if self.lines is not None and count > self.lines and request.transport is not None:
                    request.transport.abort()
                    break
        return response
