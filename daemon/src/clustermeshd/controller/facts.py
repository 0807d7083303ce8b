"""Services of one cluster and their slices, as federation asks for them, in the memory they need and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from clustermeshd.kube import objects
from clustermeshd.kube.informer import Change
from clustermeshd.model import names


class ServiceName(NamedTuple):
    """A Service within one cluster."""

    namespace: str
    name: str


class ServiceFacts:
    """Kept by the change callbacks of two informers; tells the Services that changed, or whose slices did."""

    def __init__(self, changed: Callable[[ServiceName], None]) -> None:
        self._changed = changed
        self._services: dict[ServiceName, objects.Service] = {}
        self._slices: dict[ServiceName, dict[str, objects.EndpointSlice]] = {}

    def on_service(self, change: Change[objects.Service]) -> None:
        changed = change.new or change.old
        if changed is None:
            return
        name = ServiceName(changed.metadata.namespace or "", changed.metadata.name)
        if change.new is None:
            self._services.pop(name, None)
        else:
            self._services[name] = change.new
        self._changed(name)

    def on_slice(self, change: Change[objects.EndpointSlice]) -> None:
        """A slice may move to another Service by a changed label: leaves the old one first."""
        before = change.old and _owner(change.old)
        after = change.new and _owner(change.new)
        if change.old is not None and before and before != after:
            members = self._slices.get(before, {})
            members.pop(change.old.metadata.name, None)
            if not members:
                self._slices.pop(before, None)
            self._changed(before)
        if change.new is not None and after:
            self._slices.setdefault(after, {})[change.new.metadata.name] = change.new
            self._changed(after)

    @property
    def services(self) -> Mapping[ServiceName, objects.Service]:
        return self._services

    def slices(self, service: ServiceName) -> Iterable[objects.EndpointSlice]:
        return self._slices.get(service, {}).values()

    def settle(self) -> None:
        """What is known now did not change just now: no latency can be told from when it last did."""
        for members in self._slices.values():
            for name, piece in members.items():
                if piece.annotations:
                    meta = msgspec.structs.replace(piece.metadata, annotations=None)
                    members[name] = msgspec.structs.replace(piece, metadata=meta)

    @property
    def slice_count(self) -> int:
        return sum(len(members) for members in self._slices.values())


def _owner(piece: objects.EndpointSlice) -> ServiceName:
    return ServiceName(piece.metadata.namespace or "", piece.labels.get(names.SERVICE_NAME, ""))


# ---- what informers keep

_FEDERATION = (names.SERVICE_SELECTOR, names.SERVICE_SELECTOR_ALIAS, names.AFFINITY, names.STALENESS)


def slim_service(service: objects.Service) -> objects.Service:
    """A Service without the annotations that mean nothing here."""
    annotations = {key: value for key, value in service.annotations.items() if key in _FEDERATION}
    return msgspec.structs.replace(
        service, metadata=msgspec.structs.replace(service.metadata, annotations=annotations or None)
    )
