"""Services of one cluster, indexed as federation asks for them: by namespace, and slices by Service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from clustermeshd.kube import objects
from clustermeshd.kube.informer import Change
from clustermeshd.model import names
from clustermeshd.model.addresses import Address
from clustermeshd.plan import federation


class ServiceFacts:
    """Kept by the change callbacks of two informers; tells the namespaces that changed."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._services: defaultdict[str, dict[str, objects.Service]] = defaultdict(dict)
        self._slices: defaultdict[str, defaultdict[str, dict[str, objects.EndpointSlice]]] = defaultdict(
            lambda: defaultdict(dict)
        )

    def on_service(self, change: Change[objects.Service]) -> None:
        for old in _gone(change):
            self._services[old.metadata.namespace or ""].pop(old.metadata.name, None)
            self._changed(old.metadata.namespace or "")
        if change.new is not None:
            self._services[change.new.metadata.namespace or ""][change.new.metadata.name] = change.new
            self._changed(change.new.metadata.namespace or "")

    def on_slice(self, change: Change[objects.EndpointSlice]) -> None:
        """A slice may move to another Service by a changed label: leaves the old one first."""
        if change.old is not None:
            namespace, service = _owner(change.old)
            self._slices[namespace][service].pop(change.old.metadata.name, None)
            self._changed(change.old.metadata.namespace or "")
        if change.new is not None:
            namespace, service = _owner(change.new)
            self._slices[namespace][service][change.new.metadata.name] = change.new
            self._changed(change.new.metadata.namespace or "")

    def services(self, namespace: str) -> Iterable[objects.Service]:
        return self._services.get(namespace, {}).values()

    def slices(self, namespace: str, service: str) -> Iterable[objects.EndpointSlice]:
        by_service = self._slices.get(namespace)
        return by_service.get(service, {}).values() if by_service is not None else ()

    def all_slices(self, namespace: str) -> Iterable[objects.EndpointSlice]:
        """Slices of every Service of a namespace, and of none."""
        by_service = self._slices.get(namespace)
        return [piece for pieces in by_service.values() for piece in pieces.values()] if by_service is not None else []

    def namespaces(self) -> Iterable[str]:
        return list(self._services.keys() | self._slices.keys())

    def cluster(self, name: str | None, namespace: str, owns: Callable[[Address], bool]) -> federation.Cluster:
        """These facts as federation takes them, for one namespace."""
        return federation.Cluster(
            name=name,
            services=self.services(namespace),
            slices=lambda service: self.slices(namespace, service),
            owns=owns,
        )


def _gone(change: Change[objects.Service]) -> Iterable[objects.Service]:
    return () if change.old is None or change.new is not None else (change.old,)


def _owner(piece: objects.EndpointSlice) -> tuple[str, str]:
    return piece.metadata.namespace or "", piece.labels.get(names.SERVICE_NAME, "")
