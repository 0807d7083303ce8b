"""The reconcile loop: whole rounds by the clock and whenever somebody touched the kernel, quick ones in between.

A whole round does the same thing whatever woke it, so no event needs to be understood and none that is lost matters.
It writes nothing before all inputs are there, and everything stays in place when the agent stops: the kernel forwards
without it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Protocol, TypeVar

from clustermeshd.agent.engine import Engine, Inputs, Outcome, Pending
from clustermeshd.agent.metrics import Metrics
from clustermeshd.kernel.conntrack import Conntrack, Scope
from clustermeshd.kernel.monitor import Monitor
from clustermeshd.kernel.netlink import NetlinkError
from clustermeshd.kernel.state import Failure
from clustermeshd.model.errors import MeshError, Retriable
from clustermeshd.model.settings import Dataplane
from clustermeshd.plan.overlay_claims import Problem

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_SETTLE_S = 0.005  # what calls for a whole round comes in bursts: wait this long for the rest of one
_LONGEST_REST_S = 0.5  # rest as long as a round took, at most: a fight over an object costs half a core
_SWEEP_SPACING_S = 3.0  # between two looks at all connections
_LINES = 20  # troubles of one round that are logged one by one
_LONGEST_RETRY_S = 60.0


class Source(Protocol):
    """Where inputs come from."""

    def snapshot(self) -> Inputs | None:
        """All of them now; None while one is missing: then nothing may be touched."""

    def changes(self) -> Pending | None:
        """Remote nodes that changed since the last call of either; None where a whole round is due."""


class KernelThread:
    """The one thread in which the kernel is read and written; nothing else may block on it.

    Connection tracking has another one beside it: to read that table takes tens of milliseconds however little is in
    it, and no route waits for that.
    """

    def __init__(self, settings: Dataplane) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="conntrack")
        self.settings = settings
        self.engine: Engine = self._pool.submit(Engine, settings).result()
        self._conntrack: Conntrack = self._beside.submit(Conntrack).result()

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def forget_connections(self, scope: Scope) -> int:
        """Forget those that our NAT rules would not have made as they are; how many there were."""
        return await asyncio.get_running_loop().run_in_executor(self._beside, self._conntrack.forget, scope)

    def close(self) -> None:
        self._pool.submit(self.engine.close).result()
        self._beside.submit(self._conntrack.close).result()
        self._pool.shutdown()
        self._beside.shutdown()


class Reconciler:
    """Keeps the kernel as ``inputs`` say. ``on_outcome`` hears of every completed round."""

    def __init__(
        self,
        thread: KernelThread,
        inputs: Source,
        *,
        metrics: Metrics,
        on_outcome: Callable[[Outcome], None],
        on_beat: Callable[[], None] = lambda: None,
        resync_s: float = 60.0,
        beat_s: float = 5.0,
    ) -> None:
        self._thread, self._inputs, self._metrics = thread, inputs, metrics
        self._on_outcome, self._on_beat = on_outcome, on_beat
        self._resync_s, self._beat_s = resync_s, beat_s
        self._wake = asyncio.Event()
        self._is_whole_due = True
        self._woken_at: float | None = None
        self._whole_at = 0.0  # when the clock asks for the next whole round
        self._swept_at = 0.0
        self._sweep_s = 0.0  # what the last sweep took
        self._sweep_failed = False
        self._sweep: asyncio.Task[None] | None = None  # while one goes on
        self._version: int | None = None
        self._retries = 0
        self._last_round_s = 0.0
        self._last_failures: frozenset[Failure] = frozenset()
        self._last_problems: frozenset[Problem] = frozenset()
        self._monitor: Monitor | None = None

    def wake(self) -> None:
        """An input changed: see to it soon."""
        if self._woken_at is None:
            self._woken_at = time.monotonic()
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        engine = self._thread.engine
        monitor = await self._thread.call(Monitor, self._thread.settings, engine.kernel.ports, engine.planned)
        self._monitor = monitor
        loop = asyncio.get_running_loop()
        for listener in monitor.sockets:
            loop.add_reader(listener.socket.fileno(), self._on_kernel_event)
        try:
            while True:
                started = time.monotonic()
                await self._round()
                self._last_round_s = time.monotonic() - started
                await self._sleep()
        finally:
            for listener in monitor.sockets:
                loop.remove_reader(listener.socket.fileno())
            monitor.close()
            if self._sweep is not None:
                self._sweep.cancel()

    async def once(self) -> Outcome | None:
        """One whole round; None where the inputs are not there yet."""
        inputs = self._inputs.snapshot()
        if inputs is None:
            self._is_whole_due = True  # a quick one may have carried a change over half
            return None
        is_repair = inputs.version == self._version
        if self._monitor is not None:
            own = (*inputs.local.addresses, *inputs.local.tunnel_addresses)
            self._monitor.expect(address.packed for address in own)
        with self._metrics.reconcile.time():
            outcome = await self._thread.call(self._whole, inputs, is_repair)
        self._version = inputs.version
        if self._monitor is not None:
            self._monitor.watch(outcome.watched)
        self._tell(outcome, is_repair=is_repair)
        return outcome

    def _whole(self, inputs: Inputs, is_repair: bool) -> Outcome:  # runs in the kernel thread
        deaf = nullcontext if self._monitor is None else self._monitor.deaf
        return self._thread.engine.whole(inputs, is_repair=is_repair, deaf=deaf)

    async def _quick(self) -> bool:
        """Carry over the nodes that changed; False where a whole round must see to it."""
        pending = self._inputs.changes()
        if pending is None:
            return False
        if not pending.changes:
            return True
        with self._metrics.reconcile.time():
            outcome = await self._thread.call(self._thread.engine.quick, pending)
        if outcome is None:
            return False
        self._tell(outcome, is_repair=False)
        if outcome.failures:
            return False
        self._version = pending.version
        return True

    def _tell(self, outcome: Outcome, *, is_repair: bool) -> None:
        for place, changes in enumerate(outcome.written):
            self._metrics.count_changes(changes, is_repair=is_repair and place == 0)
        self._metrics.count_failures(outcome.failures)
        self._metrics.show(outcome.summary)
        self._metrics.count_dropped(outcome.dropped)
        self._log_troubles(outcome)
        self._on_outcome(outcome)

    def _on_kernel_event(self) -> None:
        if self._monitor is not None and self._monitor.drain():
            self._is_whole_due = True
            self._wake.set()

    async def _round(self) -> None:
        """See to what is due, whatever happens."""
        self._wake.clear()
        if self._sweep_due_in() == 0:
            self._sweep = asyncio.create_task(self._forget_connections())
        woken_at, self._woken_at = self._woken_at, None
        is_whole_due = self._is_whole_due or time.monotonic() >= self._whole_at
        self._is_whole_due = False
        try:
            if is_whole_due or not await self._quick():
                outcome = await self.once()
                failed = outcome is not None and bool(outcome.failures)
                self._schedule(failed=failed)
        except (MeshError, NetlinkError, OSError) as error:
            if not isinstance(error, Retriable) or self._retries == 0:
                _LOG.warning("reconcile: %s", error)
            self._metrics.count_blindness(error)
            self._is_whole_due = True  # whatever the plan says now may not be so
            self._schedule(failed=True)
            return
        if woken_at is not None:
            self._metrics.event_to_kernel.observe(time.monotonic() - woken_at)

    def _sweep_due_in(self) -> float | None:
        """Seconds until stale connections may be looked for; None where there is no reason to."""
        if not self._thread.engine.has_new_remotes or self._sweep is not None:
            return None
        spacing_s = max(_SWEEP_SPACING_S, 10 * self._sweep_s)
        return max(0.0, self._swept_at + spacing_s - time.monotonic())

    async def _forget_connections(self) -> None:
        """Look for connections that were begun before our NAT rules knew their destination."""
        self._swept_at = time.monotonic()
        try:
            scopes = await self._thread.call(self._thread.engine.take_scopes)
            count = sum([await self._thread.forget_connections(scope) for scope in scopes])
        except (MeshError, NetlinkError, OSError) as error:
            _LOG.log(logging.DEBUG if self._sweep_failed else logging.WARNING, "stale connections stay: %s", error)
            self._sweep_failed = True
            self._thread.engine.has_new_remotes = True  # what this one should have found is still there
        else:
            self._sweep_failed = False
            if count:
                _LOG.info("forgot %d connections that were begun before the mesh knew where they lead", count)
        finally:
            self._sweep_s = time.monotonic() - self._swept_at
            self._sweep = None
            self._wake.set()  # there may be a reason for the next one

    def _schedule(self, *, failed: bool) -> None:
        now = time.monotonic()
        if not failed:
            self._retries = 0
        elif not self._retries or now >= self._whole_at:  # rounds that events called for put none off
            self._retries += 1
        delay_s = min(2.0 ** min(self._retries - 1, 10), _LONGEST_RETRY_S) if failed else self._resync_s
        self._whole_at = now + delay_s * random.uniform(0.8, 1.0)  # noqa: S311  # spreads load, hides nothing

    async def _sleep(self) -> None:
        """Until something wakes us or the time for a whole round has come; beats meanwhile."""
        started = time.monotonic()
        while (left := self._whole_at - time.monotonic()) > 0 and not self._wake.is_set():
            self._on_beat()
            sweep_s = None if self._is_whole_due else self._sweep_due_in()
            if sweep_s == 0:
                return
            left = min(left, sweep_s or left)
            try:
                await asyncio.wait_for(self._wake.wait(), min(left, self._beat_s))
            except TimeoutError:
                continue
        self._on_beat()
        rest_s = min(self._last_round_s - (time.monotonic() - started), _LONGEST_REST_S)
        await asyncio.sleep(max(_SETTLE_S if self._is_whole_due else 0.0, rest_s))

    def _log_troubles(self, outcome: Outcome) -> None:
        """Once when they appear, and once when the last is gone: never again in each round."""
        failures, problems = frozenset(outcome.failures), frozenset(outcome.summary.problems)
        for failure in sorted(failures - self._last_failures, key=str)[:_LINES]:
            _LOG.warning("%s: %s", failure.object, failure.reason)
        for problem in sorted(problems - self._last_problems, key=str)[:_LINES]:
            _LOG.warning("%s: %s: %s", problem.reason, problem.object, problem.message)
        for solved in sorted(self._last_problems - problems, key=str)[:_LINES]:
            _LOG.info("solved: %s: %s", solved.reason, solved.object)
        for reason in {problem.reason for problem in self._last_problems | problems}:
            self._metrics.problems.labels(reason).set(sum(problem.reason == reason for problem in problems))
        self._last_failures, self._last_problems = failures, problems
