"""A local copy of one kind, kept current: list, then watch; what was missed surfaces on the next list.

Losing the server empties nothing. A list that comes back is compared with the store, so that objects deleted while
nobody watched are told as deleted. Rules of the API: 410 may come as a status or as an event, bookmarks move the
version without an object (KEP-956). Versions are compared in one case only: one that went back means a store that was
restored, where a watch would wait in silence for what is long past. Lists come in pages, never as a stream (KEP-3157):
docs/decisions/0010-paged-lists.md.

An object that cannot be read, or is too large, is counted and left out; its last readable state stays, until it is
deleted. A 404 is an error as any other, since a proxy answers so too, unless the kind is optional and the server's
discovery says that it is not there: then it counts as empty, but what was known of it is dropped only when that lasts.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

import msgspec

from clustermeshd.kube import objects
from clustermeshd.kube.bodies import key_of, named, too_large, unreadable
from clustermeshd.kube.budget import Budget
from clustermeshd.kube.client import Client
from clustermeshd.kube.discovery import serves
from clustermeshd.kube.errors import UNDECODABLE, Expired, NotFound, of_status
from clustermeshd.kube.leftout import LeftOut, Why
from clustermeshd.kube.resources import Resource
from clustermeshd.model.errors import MeshError

_LOG = logging.getLogger(__name__)

T = TypeVar("T", bound=objects.Object)

_HEALTHY_S = 30.0  # a watch that lived so long resets the back-off
_QUICK_S = 1.0
_QUICK_LIMIT = 3  # empty watches that end at once: the version may be stale, list again
_IDLE_S = 150.0  # bookmarks come about once a minute
_NOT_SERVED_S = 30.0
_MAX_DIGITS = 20  # of a version; etcd counts in 64 bits

State = Literal["listing", "watching", "waiting", "not served"]


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What happened to one object; ``old`` is None when added, ``new`` is None when deleted."""

    kind: Literal["added", "modified", "deleted"]
    old: T | None
    new: T | None

    def differs_in(self, aspect: Callable[[T], object]) -> bool:
        """Whether the object came, went, or is another one in this respect: much is rewritten that nobody plans by."""
        return self.old is None or self.new is None or aspect(self.old) != aspect(self.new)


def when_other(changed: Callable[[], None], aspect: Callable[[T], object]) -> Callable[[Change[T]], None]:
    """An ``on_change`` that tells only of objects that differ in one respect."""

    def on_change(change: Change[T]) -> None:
        if change.differs_in(aspect):
            changed()

    return on_change


@dataclass(frozen=True, slots=True)
class _Event(Generic[T]):
    """A line of a watch: ``bare`` is its object as far as any kind can be read, ``item`` all of it if it can be."""

    kind: str
    bare: objects.Object
    item: T | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What is held of a peer at most; beyond it objects are counted and left out."""

    objects: int = 500_000
    object_bytes: int = 4 << 20  # etcd holds 1.5 MiB
    budget: Budget | None = None  # of all kinds together


class Informer(Generic[T]):
    """A store of one kind; ``on_change`` is called in the event loop and must not block.

    ``error`` is why the store is not current right now, None while it is. ``served`` is False while the server does
    not know the kind: then it counts as synced and empty, and is asked for again now and then. ``skipped`` counts
    objects that were left out, each time one was; ``left_out`` has those that are now. ``relists`` counts complete
    lists after the first. ``keep`` makes of an object what is stored: less of it, or a summary with the same
    metadata.name and namespace; without resourceVersion, what is stored tells itself whether an object has changed. It
    may raise what decoding raises. ``recognise`` gives what is stored of an object of which nothing but metadata was
    read, where that is enough to know it.
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
        keep: Callable[[Any], T] | None = None,
        recognise: Callable[[objects.Object], T | None] | None = None,
        limits: Limits = Limits(),  # immutable
        clock: Callable[[], float] = time.monotonic,
        max_backoff_s: float = 8.0,
        gone_after_s: float = 60.0,
    ) -> None:
        self.resource = resource
        self.error: MeshError | None = None
        self.served = True
        self.state: State = "listing"
        self.skipped = 0
        self.relists = 0
        self.left_out = LeftOut()
        self._noting = self.left_out  # another one while a list goes on
        self._client = client
        self._path = resource.path(namespace)
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._on_change = on_change
        self._keep = keep
        self._recognise = recognise
        self._limits = limits
        self._clock = clock
        self._max_backoff_s = max_backoff_s
        self._gone_after_s = gone_after_s
        self._gone_since: float | None = None
        self._is_full = False
        self._is_over_budget = False
        self._share = None if limits.budget is None else limits.budget.share()
        self._store: dict[str, T] = {}
        self._synced = asyncio.Event()
        self._version = ""
        self._last_event = clock()
        self._decoder = msgspec.json.Decoder(resource.type)
        self._bare = msgspec.json.Decoder(objects.Object)
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
    def is_full(self) -> bool:
        """Whether objects are left out because there are more than the limit."""
        return self._is_full

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
                events = await self._follow(after_failure=failures > 0)
            except Expired as error:
                _LOG.debug("%s: version expired, listing again: %s", self.resource.plural, error)
                self._version = ""
                failures += 1
                await self._pause(failures, None)
                continue
            except MeshError as error:
                if isinstance(error, NotFound) and await self._is_unknown():
                    failures += 1
                    await self._not_served(error, failures)
                    continue
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

    async def _follow(self, *, after_failure: bool) -> int:
        """A list where one is needed, then a watch to its end; the number of its events."""
        if self._is_full and (self._is_over_budget or len(self._store) < self._limits.objects):
            self._version = ""  # there is room now for what was left out
        if self._version and after_failure and await self._went_back():
            self._version = ""
        if not self._version:
            self.state = "listing"
            await self._list()
        return await self._watch(self._version)

    async def _went_back(self) -> bool:
        """Whether the server now is at an older version than we were: its store was restored."""
        async for page in self._client.pages(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            limit=1,
        ):
            return _is_older(page.metadata.resource_version, self._version)
        return False

    def _note(self, error: MeshError) -> None:
        if self.error is None or type(self.error) is not type(error):
            _LOG.warning("%s: %s", self.resource.plural, error)
        self.error = error

    async def _pause(self, failures: int, retry_after_s: float | None) -> None:
        """Full jitter: everybody who lost the same server comes back at another time."""
        self.state = "waiting"
        limit = min(self._max_backoff_s, 0.25 * 2 ** min(failures, 10))
        await asyncio.sleep((retry_after_s or 0.05) + random.uniform(0.0, limit))  # noqa: S311

    async def _is_unknown(self) -> bool:
        """Whether the server says of itself that it has no such kind."""
        try:
            return self.resource.optional and not await serves(self._client, self.resource)
        except MeshError as error:
            _LOG.debug("%s: discovery: %s", self.resource.plural, error)
            return False

    async def _not_served(self, error: NotFound, failures: int) -> None:
        """A server that just started, or a wrong one behind a balancer, may not know a kind for a while."""
        self._version = ""
        now = self._clock()
        self._gone_since = self._gone_since if self._gone_since is not None else now
        if self._store and now - self._gone_since < self._gone_after_s:
            self._note(error)
            await self._pause(failures, error.retry_after_s)
            return
        if self.served:
            _LOG.info("%s are not served: %s", self.resource.plural, error)
        self.served, self.state = False, "not served"
        self.error = None
        self._replace({}, set())
        self._synced.set()
        await asyncio.sleep(min(_NOT_SERVED_S, 2 * self._max_backoff_s) * random.uniform(0.5, 1.0))  # noqa: S311

    # ---- list

    async def _list(self) -> None:
        self._is_full = self._is_over_budget = False
        self._noting = LeftOut()
        if self._share is not None:
            self._share.listed = 0
        found: dict[str, T] = {}
        kept: set[str] = set()  # what is listed and cannot be read: its last readable state stays
        version = ""

        def skip(key: str, why: Why) -> None:
            kept.add(key)
            self._skip(key, why)

        async for page in self._client.pages(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            max_objects=4 * self._limits.objects,
            max_object_bytes=self._limits.object_bytes,
            on_skip=skip,
            ahead=True,
        ):
            self._last_event = self._clock()
            for item in page.items or ():
                try:
                    self._take(found, kept, self._kept(item))
                except UNDECODABLE as error:
                    skip(item.key, unreadable(error))
            version = page.metadata.resource_version
        self._listed(found, kept, version)

    def _kept(self, item: T) -> T:
        return item if self._keep is None else self._keep(item)

    def _take(self, found: dict[str, T], kept: set[str], item: T) -> None:
        if len(found) >= self._limits.objects and item.key not in found:
            self._overflow(item.key)
        elif self._share is not None and not self._share.list(item):
            kept.add(item.key)
            self._over_budget(item.key, self._share.limit_bytes)
        else:
            found[item.key] = item

    def _overflow(self, key: str, *, is_new: bool = True) -> None:
        self._is_full = True
        message = f"there are more than {self._limits.objects}"
        self._skip(key, Why(reason="LimitReached", message=message), is_new=is_new)

    def _over_budget(self, key: str, limit: int, *, is_new: bool = True) -> None:
        self._is_full = self._is_over_budget = True
        message = f"all kinds together have more than {limit} bytes"
        self._skip(key, Why(reason="BudgetReached", message=message), is_new=is_new)

    def _listed(self, found: dict[str, T], kept: set[str], version: str) -> None:
        self.served = True
        self.error = None
        self._gone_since = None
        self.relists += self._synced.is_set()
        self._last_event = self._clock()
        self._version = version
        self._replace(found, kept)
        self.left_out = self._noting
        if self._share is not None:
            self._share.listed = 0
        self._synced.set()

    def _replace(self, found: dict[str, T], kept: set[str]) -> None:
        """Takes over a complete list; tells only what differs, deletions included."""
        for key in [key for key in self._store if key not in found and key not in kept]:
            self._deleted(key)
        for item in found.values():
            self._stored(item, is_listed=True)

    def _stored(self, item: T, *, is_new: bool = True, is_listed: bool = False) -> None:
        old = self._store.get(item.key)
        if old is None and len(self._store) >= self._limits.objects:
            self._overflow(item.key, is_new=is_new)
            return
        version = item.metadata.resource_version
        if old is not None and (old.metadata.resource_version == version if version else old == item):
            return
        if self._share is not None and not self._share.swap(old, item, is_listed=is_listed):
            self._over_budget(item.key, self._share.limit_bytes, is_new=is_new)
            return
        self._noting.drop(item.key)
        self._store[item.key] = item
        self._tell(Change("added" if old is None else "modified", old, item))

    def _deleted(self, key: str) -> None:
        was_noted = self._noting.drop(key)
        old = self._store.pop(key, None)
        if old is not None:
            if self._share is not None:
                self._share.swap(old, None)
            self._tell(Change("deleted", old, None))
        elif not was_noted:
            self._noting.drop_unnamed()

    def _tell(self, change: Change[T]) -> None:
        if self._on_change is not None:
            self._on_change(change)

    # ---- watch

    async def _watch(self, version: str) -> int:
        """Follows one watch to its end; the number of events that could be read."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(random.randint(300, 600)),  # noqa: S311  # spread, not a secret
        }
        if self._label_selector:
            query["labelSelector"] = self._label_selector
        if self._field_selector:
            query["fieldSelector"] = self._field_selector
        count = 0
        async with self._client.stream(self._path, query, idle_timeout_s=_IDLE_S) as lines:
            self._is_watching()
            async for line in lines:
                self._last_event = self._clock()
                event = self._event(line)
                if event is not None:
                    count += 1
                    self._apply(event)
        return count

    def _is_watching(self) -> None:
        self.error = None
        self._gone_since = None
        self.state = "watching"

    def _event(self, line: bytes) -> _Event[T] | None:
        """What a line says; None for one that says nothing readable. An ERROR is raised."""
        try:
            envelope = self._envelope.decode(line)
        except UNDECODABLE as error:
            self._skip("", unreadable(error) if line else Why(reason="ObjectTooLarge", message="too long an event"))
            return None
        body = envelope.object
        if envelope.type == "ERROR":
            raise _told(bytes(body), self.resource.plural)
        if len(memoryview(body)) > self._limits.object_bytes:
            return self._unreadable(envelope, too_large(body, self._limits.object_bytes))
        try:
            if self._recognise is not None:
                bare = self._bare.decode(body)
                known = self._recognise(bare)
                if known is not None:
                    return _Event(envelope.type, bare, known)
            item = self._decoder.decode(body)
            return _Event(envelope.type, item, item if envelope.type == "BOOKMARK" else self._kept(item))
        except UNDECODABLE as error:
            return self._unreadable(envelope, unreadable(error))

    def _unreadable(self, envelope: objects.RawEvent, why: Why) -> _Event[T] | None:
        """An object that is left out may still be deleted, and moves the version as any other."""
        if envelope.type != "DELETED":
            self._skip(key_of(envelope.object), why, is_new=envelope.type == "ADDED")
        bare = named(envelope.object)
        return None if bare is None else _Event(envelope.type, bare, None)

    def _skip(self, key: str, why: Why, *, is_new: bool = True) -> None:
        self.skipped += 1
        self._noting.add(key, why, is_new=is_new)
        if self.skipped == 1:
            _LOG.warning("%s %s is left out: %s", self.resource.kind, key, why.message)

    def _apply(self, event: _Event[T]) -> None:
        version = event.bare.metadata.resource_version
        if _is_older(version, self._version):
            raise Expired(f"version went back from {self._version} to {version}")
        if event.kind == "DELETED":
            self._deleted(event.bare.key)
        elif event.kind in ("ADDED", "MODIFIED") and event.item is not None:
            self._stored(event.item, is_new=event.kind == "ADDED")
        self._version = version or self._version


def _is_older(version: str, known: str) -> bool:
    """Whether ``version`` is before ``known``; never where one of them is no plain number of sane length."""
    if any(not (v.isascii() and v.isdigit()) or len(v) > _MAX_DIGITS for v in (version, known)):
        return False
    return int(version) < int(known)


def _told(body: bytes, what: str) -> MeshError:
    try:
        code = msgspec.json.decode(body, type=objects.Status).code
    except UNDECODABLE:
        code = 500
    return of_status(code or 500, body, f"WATCH {what}")
