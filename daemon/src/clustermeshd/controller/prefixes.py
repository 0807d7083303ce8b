"""Where the pod prefixes of a peer's nodes come from: Calico's blocks where they are served, single pods where needed.

Blocks are looked for by discovery, since an account without a right to a kind that is not served gets 403 instead of
404. Pods are many: they are followed only while some node has no prefixes of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from clustermeshd.kube import objects, resources
from clustermeshd.kube.budget import Budget
from clustermeshd.kube.client import Client
from clustermeshd.kube.discovery import serves
from clustermeshd.kube.informer import Change, Informer, Limits
from clustermeshd.kube.resources import Resource
from clustermeshd.model.errors import MeshError
from clustermeshd.plan import ipam
from clustermeshd.plan.ipam import Block, PodAddresses, PodPrefixes

_LOG = logging.getLogger(__name__)
T = TypeVar("T", bound=objects.Object)

_RETRY_S = 5.0
_DISCOVERY_PERIOD_S = 60.0
_GONE_AFTER = 2  # discoveries: a server that restarts may not know its kinds for a moment
_LOOK_PERIOD_S = 10.0  # a new node has no prefix for a moment; one that lacks it twice in a row needs its pods
_UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"


class PrefixSource:
    """Blocks and pods of one peer; ``changed`` is called when the prefixes of its nodes may differ."""

    def __init__(
        self,
        client: Client,
        nodes: Informer[objects.Node],
        limits: objects.ImportLimits,
        changed: Callable[[], None],
        budget: Budget | None = None,
    ) -> None:
        self.blocks: Informer[Block] | None = None
        self.pods: Informer[PodAddresses] | None = None
        self.problem: MeshError | None = None
        self._client = client
        self._nodes = nodes
        self._limits = Limits(objects=limits.pods, object_bytes=limits.object_bytes, budget=budget)
        self._changed = changed
        self._lacking: frozenset[str] = frozenset()
        self._found = asyncio.Event()
        self._synced = asyncio.Event()

    @property
    def has_synced(self) -> bool:
        return self._synced.is_set()

    @property
    def error(self) -> MeshError | None:
        """Why prefixes are not current."""
        informers = (self.blocks, self.pods)
        return self.problem or next((i.error for i in informers if i is not None and i.error is not None), None)

    async def wait_synced(self) -> None:
        await self._synced.wait()

    def prefixes(self) -> PodPrefixes:
        """What is known now."""
        if self._has_blocks and self.blocks is not None:
            return ipam.from_blocks(self.blocks.store.values())
        if self.pods is not None:
            return ipam.from_pods(pod for pod in self.pods.store.values() if pod.node in self._lacking)
        return PodPrefixes()

    @property
    def _has_blocks(self) -> bool:
        return self.blocks is not None and ipam.has_blocks(self.blocks.store.values())

    async def run(self) -> None:
        """Follows the peer until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_blocks(group))
            await self._found.wait()
            await self._nodes.wait_synced()
            await self._follow_pods(group)

    # ---- blocks

    async def _follow_blocks(self, group: asyncio.TaskGroup) -> None:
        """Keeps to the group that serves blocks; another one is taken over once it has listed everything."""
        served: Resource[objects.IPAMBlock] | None = None
        task: asyncio.Task[None] | None = None
        missed = 0
        while True:
            try:
                found = await self._discover()
            except MeshError as error:
                self.problem = error
                await asyncio.sleep(_RETRY_S)
                continue
            self.problem = None
            missed = 0 if found is not None else missed + 1
            if task is not None and missed >= _GONE_AFTER:
                _LOG.info("%s: Calico's blocks are not served any more", self._client.server)
                task.cancel()
                self.blocks = served = task = None
                self._changed()
            if found is not None and found is not served:
                _LOG.info("%s: pod prefixes come from Calico's blocks (%s)", self._client.server, found.api_version)
                informer = self._informer(found, ipam.block, self._block_changed)
                before, task = task, group.create_task(informer.run())
                self.blocks = self.blocks or informer
                await informer.wait_synced()
                self.blocks, served = informer, found
                self._changed()
                if before is not None:
                    before.cancel()
            self._found.set()
            await asyncio.sleep(_DISCOVERY_PERIOD_S)

    async def _discover(self) -> Resource[objects.IPAMBlock] | None:
        for resource in resources.IPAM_BLOCKS:
            if await serves(self._client, resource):
                return resource
        return None

    def _block_changed(self, change: Change[Block]) -> None:
        old, new = change.old or Block(), change.new or Block()
        if (old.cidr, old.node, old.lent) != (new.cidr, new.node, new.lent):
            self._changed()

    # ---- pods

    async def _follow_pods(self, group: asyncio.TaskGroup) -> None:
        task: asyncio.Task[None] | None = None
        before = lacking = self._without_prefixes()
        while True:
            if lacking & before and task is None:
                _LOG.info("%s: nodes without pod CIDRs, their pods are followed", self._client.server)
                pods = self._informer(resources.PODS, ipam.pod_addresses, self._pod_changed, _UNFINISHED)
                task = group.create_task(pods.run())
                self.pods = pods
                await pods.wait_synced()
            if not lacking and not before and task is not None:
                task.cancel()
                self.pods = task = None
            if lacking != self._lacking:
                self._lacking = lacking
                self._changed()
            self._synced.set()
            await asyncio.sleep(_LOOK_PERIOD_S)
            before, lacking = lacking, self._without_prefixes()

    def _without_prefixes(self) -> frozenset[str]:
        return frozenset() if self._has_blocks else ipam.lacking(self._nodes.store.values())

    def _pod_changed(self, change: Change[PodAddresses]) -> None:
        old, new = change.old or PodAddresses(), change.new or PodAddresses()
        if (old.node, old.addresses) != (new.node, new.addresses) and {old.node, new.node} & self._lacking:
            self._changed()

    def _informer(
        self,
        resource: Resource[Any],
        keep: Callable[[Any], T],
        on_change: Callable[[Change[T]], None],
        field_selector: str | None = None,
    ) -> Informer[T]:
        return Informer(
            self._client, resource, field_selector=field_selector, keep=keep, on_change=on_change, limits=self._limits
        )
