"""/healthz, /readyz and /metrics on loopback: for probes and scrapers of the host, not for the network."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    *,
    registry: CollectorRegistry,
    is_healthy: Callable[[], bool],
    is_ready: Callable[[], bool],
) -> AsyncIterator[None]:
    """Serves while the context is open; ``port`` 0 switches it off. A port in use is logged, never fatal."""

    def probe(answer: Callable[[], bool]) -> Callable[[web.Request], object]:
        async def handle(_: web.Request) -> web.Response:
            ok = answer()
            return web.Response(text="ok\n" if ok else "not yet\n", status=200 if ok else 503)

        return handle

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", probe(is_healthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(is_ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        if port:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                _LOG.warning("health and metrics are not served: %s:%d: %s; set --health-port", host, port, error)
        yield
    finally:
        await runner.cleanup()
