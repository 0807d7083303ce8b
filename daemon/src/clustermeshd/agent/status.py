"""Writes the MeshNode of this node: made once, status whenever it says something new, and a heartbeat now and then."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from clustermeshd import __version__
from clustermeshd.agent.engine import Outcome
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from clustermeshd.model.errors import MeshError
from clustermeshd.plan import overlay_status
from clustermeshd.plan.paths import PathSummary

_LOG = logging.getLogger(__name__)
_SPACING_S = 3.0  # an API server need not hear of every step of a roll-out
_LONGEST_RETRY_S = 60.0


class StatusWriter:
    """Takes outcomes at any rate and writes the newest; the data plane never waits for it."""

    def __init__(
        self,
        client: Client,
        node_name: str,
        node: Callable[[], objects.Node | None],
        paths: Callable[[], PathSummary | None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._node_name, self._node, self._paths = client, node_name, node, paths
        self._outcome: Outcome | None = None
        self._news = asyncio.Event()
        self._written: objects.MeshNodeStatus | None = None
        self._clock = clock
        self._beat_at = clock()  # when the next heartbeat is due

    def offer(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._news.set()

    def wake(self) -> None:
        """A path changed."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        delay_s = _SPACING_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._outcome is None else max(0.0, self._beat_at - self._clock())):
                    await self._news.wait()
            self._news.clear()
            try:
                await self.write()
                delay_s = _SPACING_S
            except (MeshError, OSError) as error:
                _LOG.log(logging.WARNING if delay_s == _SPACING_S else logging.DEBUG, "MeshNode status: %s", error)
                self._written = None  # read it again: somebody may have removed it
                self._news.set()
                delay_s = min(2 * delay_s, _LONGEST_RETRY_S)
            await asyncio.sleep(delay_s)

    async def write(self) -> None:
        """Write the newest outcome if it differs from what was written last, or a heartbeat is due."""
        node, outcome = self._node(), self._outcome
        if node is None or outcome is None:
            return
        previous = self._written if self._written is not None else await self._create(node)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        made = overlay_status.status(
            outcome.summary, outcome.failures, self._paths(), version=__version__, previous=previous, now=now
        )
        if made != previous or self._clock() >= self._beat_at:
            made = msgspec.structs.replace(made, last_heartbeat_time=now)
            body = {**self._identity(), "status": msgspec.to_builtins(made)}
            await self._apply(body, subresource="status")
            self._beat_at = self._clock() + overlay_status.HEARTBEAT_S * random.uniform(0.9, 1.1)  # noqa: S311  # spread, no secret
        self._written = made

    async def _create(self, node: objects.Node) -> objects.MeshNodeStatus:
        """The MeshNode, owned by the Node so that it goes with it; returns the status it has."""
        body = self._identity()
        owner = {"apiVersion": "v1", "kind": "Node", "name": node.metadata.name, "uid": node.metadata.uid}
        body["metadata"] = {
            "name": self._node_name,
            "labels": {names.MANAGED_BY: names.MANAGER},
            "ownerReferences": [owner],
        }
        made = await self._apply(body, subresource=None)
        return made.status

    async def _apply(self, body: dict[str, object], *, subresource: str | None) -> objects.MeshNode:
        return await self._client.apply(
            resources.MESH_NODES, body, manager=names.AGENT_MANAGER, name=self._node_name, subresource=subresource
        )

    def _identity(self) -> dict[str, object]:
        return {"apiVersion": names.API_VERSION, "kind": "MeshNode", "metadata": {"name": self._node_name}}
