"""Leader election by a Lease, safe against stalls: the old leader has stopped writing before a new one starts.

Nobody compares a wall clock. A candidate watches the Lease and counts, on its own clock, how long it has not changed;
a leader counts from the moment it *sent* its last successful renewal, earlier than anybody saw it. The work of one
that could not renew is cancelled at ``renew_deadline_s``, well before ``lease_duration_s``; a process that was stopped
and woke up too late finds ``check`` refusing before every write.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Conflict, NotFound
from clustermeshd.model.errors import Fatal, MeshError, Retriable

_LOG = logging.getLogger(__name__)


class NotLeading(Retriable):
    """A write was attempted without a Lease that is surely ours."""


def _boot_clock() -> float:
    """Seconds since boot, sleep of the machine included: a suspended leader must notice."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class _Seen:
    lease: objects.Lease
    at: float  # own clock, when this version was first seen


class Elector:
    """One candidate. ``is_leader`` is a hint for status; ``check`` is what writers must ask."""

    def __init__(
        self,
        client: Client,
        *,
        name: str,
        namespace: str,
        identity: str,
        lease_duration_s: float = 10,
        renew_deadline_s: float = 7,
        retry_period_s: float = 1.5,
        clock: Callable[[], float] = _boot_clock,
    ) -> None:
        if not retry_period_s < renew_deadline_s < lease_duration_s:
            raise Fatal("election: retry period < renew deadline < lease duration must hold")
        self._client = client
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._duration_s = lease_duration_s
        self._deadline_s = renew_deadline_s
        self._retry_s = retry_period_s
        self._clock = clock
        self._seen: _Seen | None = None
        self._renewed_at: float | None = None  # own clock, when the last successful renewal was sent

    @property
    def is_leader(self) -> bool:
        return self._renewed_at is not None and self._clock() < self._renewed_at + self._deadline_s

    def check(self) -> None:
        """Raises NotLeading unless the Lease is surely ours for now."""
        if not self.is_leader:
            raise NotLeading(f"Lease {self._namespace}/{self._name} is not held by {self._identity}")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Campaigns until cancelled; runs ``lead`` while elected, and again after every new election."""
        while True:
            await self._acquire()
            _LOG.info("elected: Lease %s/%s is held by %s", self._namespace, self._name, self._identity)
            try:
                await self._reign(lead)
            finally:
                await self._release()

    async def _acquire(self) -> None:
        complaint = ""
        while True:
            try:
                if await self._try():
                    return
                complaint = ""
            except MeshError as error:
                if complaint != str(error):
                    complaint = str(error)
                    _LOG.warning("election: %s", error)
            await asyncio.sleep(self._retry_s * random.uniform(0.8, 1.2))  # noqa: S311

    async def _reign(self, lead: Callable[[], Awaitable[None]]) -> None:
        """The work, and the renewals beside it; ends when either does."""
        work = asyncio.ensure_future(lead())
        try:
            while not work.done():
                await asyncio.wait((work,), timeout=self._retry_s)
                if work.done() or not await self._renew():
                    break
        finally:
            await self._stop(work)
        if not work.cancelled():
            with suppress(NotLeading):  # the work met its closed fence before we did
                work.result()  # any other error of the work is the caller's

    async def _renew(self) -> bool:
        """Whether the Lease is still ours; tries until it is, or until the deadline has passed."""
        while self._renewed_at is not None:
            left = self._renewed_at + self._deadline_s - self._clock()
            if left <= 0:
                break
            try:
                async with asyncio.timeout(left):
                    renewed = await self._try()
            except (MeshError, TimeoutError) as error:
                _LOG.warning("election: not renewed: %s", error or "timed out")
            else:
                if not renewed:
                    _LOG.warning("election: the Lease was taken over")
                return renewed
            await asyncio.sleep(min(self._retry_s / 2, max(0.0, left)))
        _LOG.error("election: not renewed for %g s; stopping the work", self._deadline_s)
        return False

    async def _stop(self, work: asyncio.Future[None]) -> None:
        """Cancels the work and waits for its end, which must come before anybody else may start."""
        work.cancel()
        grace = self._duration_s - self._deadline_s - 0.5
        done, _ = await asyncio.wait((work,), timeout=max(0.5, grace))
        self._renewed_at, held = None, self._renewed_at
        if not done:
            raise Fatal(f"election: the work did not stop within {grace:g} s (Lease last renewed at {held})")

    async def _release(self) -> None:
        """Gives the Lease back, so that the next one need not wait; best effort."""
        seen = self._seen
        if seen is None or seen.lease.spec.holder_identity != self._identity:
            return
        spec = msgspec.structs.replace(
            seen.lease.spec, holder_identity="", lease_duration_seconds=1, renew_time=_now()
        )
        with suppress(MeshError, TimeoutError):
            async with asyncio.timeout(2):
                await self._write(seen.lease, spec)

    # ---- the Lease

    async def _try(self) -> bool:
        """Takes or renews the Lease if that is possible now."""
        sent = self._clock()
        lease = await self._read()
        mine = lease is not None and lease.spec.holder_identity == self._identity
        if lease is not None and not mine and not self._is_free(lease):
            return False
        before = lease.spec if lease is not None else objects.LeaseSpec()
        spec = objects.LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=max(1, round(self._duration_s)),
            acquire_time=before.acquire_time if mine else _now(),
            renew_time=_now(),
            lease_transitions=(before.lease_transitions or 0) + (0 if mine or lease is None else 1),
        )
        try:
            await self._write(lease, spec)
        except Conflict:
            return False
        self._renewed_at = sent
        return True

    async def _read(self) -> objects.Lease | None:
        try:
            lease = await self._client.get(resources.LEASES, self._name, self._namespace)
        except NotFound:
            return None
        seen = self._seen
        if seen is None or seen.lease.metadata.resource_version != lease.metadata.resource_version:
            self._seen = _Seen(lease, self._clock())
        return lease

    def _is_free(self, lease: objects.Lease) -> bool:
        """Whether nobody holds it: released, or unchanged under our eyes for longer than its own duration."""
        if not lease.spec.holder_identity:
            return True
        assert self._seen is not None  # noqa: S101  # _read has just set it
        duration = max(self._duration_s, float(lease.spec.lease_duration_seconds or 0))
        return self._clock() - self._seen.at > duration

    async def _write(self, lease: objects.Lease | None, spec: objects.LeaseSpec) -> None:
        """Creates or updates with the resourceVersion that was read: of two writers one gets Conflict."""
        metadata = objects.Metadata(
            name=self._name,
            namespace=self._namespace,
            resource_version=lease.metadata.resource_version if lease is not None else "",
        )
        body = objects.Lease(metadata=metadata, spec=spec)
        if lease is None:
            written = await self._client.create(resources.LEASES, body, self._namespace)
        else:
            written = await self._client.replace(resources.LEASES, body, self._name, self._namespace)
        self._seen = _Seen(written, self._clock())


def _now() -> str:
    """MicroTime for people; never compared."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
