"""Federates Services: keeps our EndpointSlices and Endpoints of every Service that carries the annotation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from clustermeshd.controller.events import Events
from clustermeshd.controller.local import LocalFacts
from clustermeshd.controller.nodes import NodeMirror
from clustermeshd.controller.peer import Peer
from clustermeshd.kube import objects, resources
from clustermeshd.kube.writer import Writer
from clustermeshd.model import names
from clustermeshd.plan import federation
from clustermeshd.selector import Selector, SelectorError

_LOG = logging.getLogger(__name__)


class Federator:
    """Owner of the slices and Endpoints of federated Services."""

    def __init__(
        self, local: LocalFacts, peers: Mapping[str, Peer], nodes: NodeMirror, writer: Writer, events: Events
    ) -> None:
        self._local = local
        self._peers = peers
        self._nodes = nodes
        self._writer = writer
        self._events = events

    async def reconcile(self, namespace: str) -> None:
        """Brings every federated Service of a namespace up to date, and clears what no longer is one."""
        services = {service.metadata.name: service for service in self._local.services.services(namespace)}
        desired: dict[str, objects.EndpointSlice] = {}
        federated: dict[str, objects.Service] = {}
        for name, service in services.items():
            selector = await self._selector(service)
            if selector is not None:
                federated[name] = service
                desired.update(self._slices(service, selector, namespace))
        await self._write(namespace, federated, desired)

    def federated(self) -> Iterable[objects.Service]:
        """Every Service that carries the annotation."""
        for namespace in self._local.services.namespaces():
            for service in self._local.services.services(namespace):
                if federation.selector_text(service) is not None:
                    yield service

    async def _selector(self, service: objects.Service) -> Selector | None:
        try:
            return federation.selector_of(service)
        except SelectorError as error:
            await self._events.warn(
                service, "v1", "Service", "InvalidServiceSelector", f"not federated: {error.found}"
            )
            return None

    def _slices(
        self, service: objects.Service, selector: Selector, namespace: str
    ) -> dict[str, objects.EndpointSlice]:
        clusters = [self._local.services.cluster(None, namespace, lambda _: True)]
        unknown: set[str] = set()
        for peer in self._peers.values():
            if peer.connection is None:
                unknown.add(peer.name)
                continue
            clusters.append(
                peer.connection.services.cluster(
                    peer.name,
                    namespace,
                    lambda address, name=peer.name: self._nodes.owns(name, address),  # type: ignore[misc]
                )
            )
        made = federation.slices(service, selector, clusters, self._local.nodes.store)
        # a peer that has not listed yet keeps the endpoints it had: fail static
        for piece in self._local.services.slices(namespace, service.metadata.name):
            if piece.labels.get(names.REMOTE_CLUSTER) in unknown:
                made[piece.metadata.name] = piece
        return made

    def _ours(self, namespace: str) -> list[objects.EndpointSlice]:
        return [
            piece
            for piece in self._local.services.all_slices(namespace)
            if piece.labels.get(names.SLICE_MANAGED_BY) == names.SLICE_MANAGER
        ]

    async def _write(
        self, namespace: str, federated: Mapping[str, objects.Service], desired: Mapping[str, objects.EndpointSlice]
    ) -> None:
        """New endpoints before old ones go, so that no Service is empty in between."""
        ours = {piece.metadata.name: piece for piece in self._ours(namespace)}
        for name, piece in desired.items():
            if piece is not ours.get(name):
                await self._writer.ensure(resources.ENDPOINT_SLICES, piece, actual=ours.get(name))
        for name in ours.keys() - desired.keys():
            await self._writer.remove(resources.ENDPOINT_SLICES, ours[name])
        for name, service in federated.items():
            made = [p for p in desired.values() if p.labels.get(names.SERVICE_NAME) == name]
            actual = self._local.endpoints.store.get(f"{namespace}/{name}")
            await self._writer.ensure(resources.ENDPOINTS, federation.endpoints(service, made), actual=actual)
        for endpoints in list(self._local.endpoints.store.values()):
            if endpoints.metadata.namespace == namespace and endpoints.metadata.name not in federated:
                await self._writer.remove(resources.ENDPOINTS, endpoints)
