"""A local copy of one kind, kept current: list, then watch; what was missed surfaces on the next list.

Losing the server empties nothing. A list that comes back is compared with the store, so that objects deleted while
nobody watched are told as deleted. Rules of the API: resourceVersions are opaque, 410 may come as a status or as an
event, bookmarks move the version without an object (KEP-956), a server may stream the initial list (KEP-3157).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, Literal, TypeVar

import msgspec

from clustermeshd.kube import objects
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Expired, NotFound, Rejected, of_status
from clustermeshd.kube.resources import Resource
from clustermeshd.model.errors import MeshError

_LOG = logging.getLogger(__name__)

T = TypeVar("T", bound=objects.Object)

_INITIAL_END = "k8s.io/initial-events-end"
_HEALTHY_S = 30.0  # a watch that lived so long resets the back-off
_QUICK_S = 1.0
_QUICK_LIMIT = 3  # empty watches that end at once: the version may be stale, list again
_IDLE_S = 150.0  # bookmarks come about once a minute
_NOT_SERVED_S = 30.0


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What happened to one object; ``old`` is None when added, ``new`` is None when deleted."""

    kind: Literal["added", "modified", "deleted"]
    old: T | None
    new: T | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What is held of a peer at most; beyond it objects are counted and left out."""

    objects: int = 500_000


class Informer(Generic[T]):
    """A store of one kind; ``on_change`` is called in the event loop and must not block.

    ``error`` is why the store is not current right now, None while it is. ``served`` is False while the server does
    not know the kind: then it counts as synced and empty, and is asked for again now and then.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        on_change: Callable[[Change[T]], None] | None = None,
        limits: Limits = Limits(),  # immutable
        clock: Callable[[], float] = time.monotonic,
        max_backoff_s: float = 20.0,
    ) -> None:
        self.resource = resource
        self.error: MeshError | None = None
        self.served = True
        self.skipped = 0
        self._client = client
        self._path = resource.path(namespace)
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._on_change = on_change
        self._limits = limits
        self._clock = clock
        self._max_backoff_s = max_backoff_s
        self._store: dict[str, T] = {}
        self._synced = asyncio.Event()
        self._version = ""
        self._streams_lists = True
        self._last_event = clock()
        self._decoder = msgspec.json.Decoder(resource.type)
        self._envelope = msgspec.json.Decoder(objects.RawEvent)

    # ---- what others see

    @property
    def store(self) -> Mapping[str, T]:
        """Objects by ``namespace/name`` (``name`` for cluster-scoped kinds)."""
        return MappingProxyType(self._store)

    @property
    def has_synced(self) -> bool:
        """Whether everything was listed once."""
        return self._synced.is_set()

    @property
    def last_event_age_s(self) -> float:
        """Seconds since the server last said anything."""
        return self._clock() - self._last_event

    async def wait_synced(self) -> None:
        await self._synced.wait()

    # ---- life

    async def run(self) -> None:
        """Keeps the store current until cancelled; never gives up."""
        failures = quick = 0
        while True:
            started = self._clock()
            try:
                if not self._version:
                    await self._list()
                events = await self._watch(self._version, initial=False)
            except Expired:
                _LOG.debug("%s: version expired, listing again", self.resource.plural)
                self._version = ""
                self.error = None
                failures += 1
                await self._pause(failures, None)
                continue
            except NotFound as error:
                await self._not_served(error)
                continue
            except MeshError as error:
                self._note(error)
                failures = 1 if self._clock() - started > _HEALTHY_S else failures + 1
                await self._pause(failures, getattr(error, "retry_after_s", None))
                continue
            lived = self._clock() - started
            quick = quick + 1 if lived < _QUICK_S and not events else 0
            failures = 0 if lived > _HEALTHY_S else failures
            if quick >= _QUICK_LIMIT:  # some servers end a watch of a stale version instead of saying 410
                self._version, quick = "", 0
                failures += 1
            if lived < _QUICK_S:
                await self._pause(max(1, failures), None)

    def _note(self, error: MeshError) -> None:
        if self.error is None or type(self.error) is not type(error):
            _LOG.warning("%s: %s", self.resource.plural, error)
        self.error = error

    async def _pause(self, failures: int, retry_after_s: float | None) -> None:
        """Full jitter: everybody who lost the same server comes back at another time."""
        limit = min(self._max_backoff_s, 0.25 * 2 ** min(failures, 10))
        await asyncio.sleep(retry_after_s if retry_after_s is not None else random.uniform(0.05, limit))  # noqa: S311

    async def _not_served(self, error: NotFound) -> None:
        if self.served:
            _LOG.info("%s are not served: %s", self.resource.plural, error)
        self.served = False
        self.error = None
        self._version = ""
        self._replace({})
        self._synced.set()
        await asyncio.sleep(_NOT_SERVED_S * random.uniform(0.5, 1.0))  # noqa: S311

    # ---- list

    async def _list(self) -> None:
        if self._streams_lists and await self._stream_list():
            return
        found: dict[str, T] = {}
        version = ""
        async for page in self._client.pages(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        ):
            for item in page.items or ():
                self._take(found, item)
            version = page.metadata.resource_version
        self._listed(found, version)

    async def _stream_list(self) -> bool:
        """The list as a stream of events, where the server can (WatchList); False where it cannot."""
        try:
            await self._watch("", initial=True)
        except Rejected:  # the server does not know sendInitialEvents
            self._streams_lists = False
            return False
        return bool(self._version)

    def _take(self, found: dict[str, T], item: T) -> None:
        if len(found) >= self._limits.objects:
            self.skipped += 1
            return
        found[item.key] = item

    def _listed(self, found: dict[str, T], version: str) -> None:
        self.served = True
        self.error = None
        self._last_event = self._clock()
        self._version = version
        self._replace(found)
        self._synced.set()

    def _replace(self, found: dict[str, T]) -> None:
        """Takes over a complete list; tells only what differs, deletions included."""
        for key in [key for key in self._store if key not in found]:
            self._deleted(key)
        for item in found.values():
            self._stored(item)

    def _stored(self, item: T) -> None:
        old = self._store.get(item.key)
        if old is None and len(self._store) >= self._limits.objects:
            self.skipped += 1
            return
        if old is not None and old.metadata.resource_version == item.metadata.resource_version:
            return
        self._store[item.key] = item
        self._tell(Change("added" if old is None else "modified", old, item))

    def _deleted(self, key: str) -> None:
        old = self._store.pop(key, None)
        if old is not None:
            self._tell(Change("deleted", old, None))

    def _tell(self, change: Change[T]) -> None:
        if self._on_change is not None:
            self._on_change(change)

    # ---- watch

    async def _watch(self, version: str, *, initial: bool) -> int:
        """Follows one watch to its end; the number of events it had. An initial one ends with its list."""
        query = {"watch": "true", "allowWatchBookmarks": "true"}
        if initial:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        else:
            query |= {"resourceVersion": version}
        query["timeoutSeconds"] = str(random.randint(300, 600))  # noqa: S311  # spread, not a secret
        if self._label_selector:
            query["labelSelector"] = self._label_selector
        if self._field_selector:
            query["fieldSelector"] = self._field_selector
        count = 0
        found: dict[str, T] = {}
        async with self._client.stream(self._path, query, idle_timeout_s=_IDLE_S) as lines:
            if not initial:
                self.error = None
            async for line in lines:
                count += 1
                self._last_event = self._clock()
                event = self._event(line)
                if event is None:
                    continue
                kind, item, ended = event
                if not initial:
                    self._apply(kind, item)
                elif ended:
                    self._listed(found, item.metadata.resource_version)
                    initial = False
                elif kind in ("ADDED", "MODIFIED"):
                    self._take(found, item)
                elif kind == "DELETED":
                    found.pop(item.key, None)
        return count

    def _event(self, line: bytes) -> tuple[str, T, bool] | None:
        """Kind and object of a line, and whether it ends the initial list; None for one that cannot be read."""
        try:
            envelope = self._envelope.decode(line)
        except msgspec.DecodeError as error:
            self._skip(error)
            return None
        if envelope.type == "ERROR":
            raise _told(bytes(envelope.object), self.resource.plural)
        try:
            item = self._decoder.decode(envelope.object)
        except msgspec.DecodeError as error:
            self._skip(error)
            return None
        ended = envelope.type == "BOOKMARK" and item.annotations.get(_INITIAL_END) == "true"
        return envelope.type, item, ended

    def _skip(self, error: Exception) -> None:
        self.skipped += 1
        if self.skipped == 1:
            _LOG.warning("%s: an object is left out: %s", self.resource.plural, error)

    def _apply(self, kind: str, item: T) -> None:
        if kind == "DELETED":
            self._deleted(item.key)
        elif kind in ("ADDED", "MODIFIED"):
            self._stored(item)
        self._version = item.metadata.resource_version or self._version


def _told(body: bytes, what: str) -> MeshError:
    try:
        code = msgspec.json.decode(body, type=objects.Status).code
    except msgspec.DecodeError:
        code = 500
    return of_status(code or 500, body, f"WATCH {what}")
