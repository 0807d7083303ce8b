"""What we wrote for federated Services, as far as comparing needs it: a digest in place of a hundred endpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from clustermeshd.controller.facts import ServiceName
from clustermeshd.kube import objects
from clustermeshd.kube.informer import Change
from clustermeshd.model import names

_ENCODER = msgspec.json.Encoder()
ANNOTATIONS = (names.LAST_CHANGE_TRIGGER, names.SERVICE_SELECTOR, names.OVER_CAPACITY, names.STALE)
"""Those of ours on what we write."""
_MARKS = (names.OVER_CAPACITY, names.STALE)  # they go when what they say does not hold any more


class Written(objects.Object, frozen=True):
    """An EndpointSlice or Endpoints object of ours, its content as a digest."""

    digest: bytes = b""


def summary(thing: objects.EndpointSlice | objects.Endpoints) -> Written:
    """What is kept of an object of ours."""
    return Written(metadata=_kept(thing.metadata), digest=digest(thing))


def _kept(meta: objects.Metadata) -> objects.Metadata:
    return msgspec.structs.replace(meta, generation=0, creation_timestamp=None, deletion_timestamp=None)


def digest(thing: objects.EndpointSlice | objects.Endpoints) -> bytes:
    """Digest of everything that we write beside metadata."""
    if isinstance(thing, objects.EndpointSlice):
        content: object = (thing.address_type, thing.endpoints or (), thing.ports or ())
    else:
        content = thing.subsets or ()
    return hashlib.sha256(_ENCODER.encode(content)).digest()[:16]  # processors compute it themselves


def is_written(desired: objects.EndpointSlice | objects.Endpoints, content: bytes, actual: Written | None) -> bool:
    """Whether ``actual`` says what ``desired`` (its digest: ``content``) says; the trigger time is no difference."""
    if actual is None or content != actual.digest:
        return False
    wanted = {key: value for key, value in desired.annotations.items() if key != names.LAST_CHANGE_TRIGGER}
    return (
        desired.labels.items() <= actual.labels.items()
        and wanted.items() <= actual.annotations.items()
        and all(desired.annotations.get(mark) == actual.annotations.get(mark) for mark in _MARKS)
        and {o.uid for o in desired.metadata.owner_references or ()}
        <= {o.uid for o in actual.metadata.owner_references or ()}
    )


class _Expected(NamedTuple):
    """What we want to stand in a slice of ours; the same tuple of endpoints is not digested twice."""

    endpoints: tuple[objects.Endpoint, ...] | None
    ports: tuple[objects.EndpointPort, ...] | None
    digest: bytes
    version: str = ""  # in which it was written


class WrittenSlices:
    """Our slices by the Service they belong to; tells the Service when one is not what we wrote last."""

    def __init__(self, changed: Callable[[ServiceName], None]) -> None:
        self._changed = changed
        self._slices: dict[ServiceName, dict[str, Written]] = {}
        self._expected: dict[str, _Expected] = {}

    def on_change(self, change: Change[Written]) -> None:
        before = change.old and _service(change.old)
        after = change.new and _service(change.new)
        if change.old is not None and before and before != after:
            members = self._slices.get(before, {})
            members.pop(change.old.metadata.name, None)
            if not members:
                self._slices.pop(before, None)
            if change.old.key in self._expected:
                self._changed(before)
            if change.new is None:
                self._expected.pop(change.old.key, None)
        if change.new is not None and after:
            self._slices.setdefault(after, {})[change.new.metadata.name] = change.new
            expected = self._expected.get(change.new.key)
            if (
                expected is None
                or expected.digest != change.new.digest
                or (change.old is not None and _marks(change.old) != _marks(change.new))
            ):
                self._changed(after)

    def expect(self, desired: objects.EndpointSlice) -> bytes:
        """Takes note of what is being written, so that its echo is no news; its digest."""
        known = self._expected.get(desired.key)
        if known is None or known.endpoints is not desired.endpoints or known.ports != desired.ports:
            known = _Expected(desired.endpoints, desired.ports, digest(desired))
            self._expected[desired.key] = known
        return known.digest

    def wrote(self, desired: objects.EndpointSlice, version: str) -> None:
        """Takes note of the version in which what was expected stands now."""
        known = self._expected.get(desired.key)
        if known is not None and known.endpoints is desired.endpoints:
            self._expected[desired.key] = known._replace(version=version)

    def recognise(self, bare: objects.Object) -> Written | None:
        """What is kept of a slice of ours in the very version that we wrote."""
        known = self._expected.get(bare.key)
        if known is None or not known.version or known.version != bare.metadata.resource_version:
            return None
        return Written(metadata=_kept(bare.metadata), digest=known.digest)

    def forget(self, written: Written) -> None:
        """Takes note of what is being removed."""
        self._expected.pop(written.key, None)

    def of(self, service: ServiceName) -> Mapping[str, Written]:
        """Our slices of a Service, by name."""
        return self._slices.get(service, {})

    def services(self) -> set[ServiceName]:
        return set(self._slices)


def _marks(written: Written) -> tuple[object, ...]:
    return written.labels, written.metadata.owner_references


def _service(written: Written) -> ServiceName:
    return ServiceName(written.metadata.namespace or "", written.labels.get(names.SERVICE_NAME, ""))
