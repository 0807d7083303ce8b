"""The reconcile loop: read the kernel, plan, write the difference, look again.

Woken by an input, by the netlink monitor, or by the clock; in each case it does the same whole thing, so no event
needs to be understood and none that is lost matters. It writes nothing before all inputs are there, and leaves
everything in place when it stops: the kernel forwards without it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from clustermeshd.agent.metrics import Metrics
from clustermeshd.kernel.dataplane import Kernel
from clustermeshd.kernel.monitor import Monitor
from clustermeshd.kernel.netlink import NetlinkError
from clustermeshd.kernel.state import Changes, Failure, KernelState, Marked
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.model.errors import MeshError, Retriable
from clustermeshd.model.settings import Dataplane
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay import Desired, desired
from clustermeshd.plan.overlay_claims import Problem
from clustermeshd.plan.overlay_local import LocalNode

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_SETTLE_S = 0.005  # events come in bursts: wait this long for the rest of one
_LONGEST_REST_S = 0.5  # rest as long as a round took, at most: a fight over an object costs half a core
_PASSES = 3  # a device made anew changes what the kernel holds; look again until nothing differs
_LINES = 20  # changes of one reconcile that are logged one by one
_LONGEST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the API server says; ``version`` changes whenever it does."""

    local: LocalNode
    remotes: tuple[RemoteNode, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One reconcile: what was wanted, what is, what failed."""

    wanted: Desired
    actual: Marked
    failures: tuple[Failure, ...]


class KernelThread:
    """The one thread in which the kernel is read and written; nothing else may block on it."""

    def __init__(self, settings: Dataplane) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self.settings = settings
        self.kernel: Kernel = self._pool.submit(Kernel, settings).result()

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        self._pool.submit(self.kernel.close).result()
        self._pool.shutdown()


class Reconciler:
    """Keeps the kernel as ``inputs`` say. ``on_outcome`` hears of every completed reconcile."""

    def __init__(
        self,
        thread: KernelThread,
        inputs: Callable[[], Inputs | None],
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
        self._version: int | None = None
        self._retries = 0
        self._last_round_s = 0.0
        self._last_failures: frozenset[Failure] = frozenset()
        self._last_problems: frozenset[Problem] = frozenset()
        self._monitor: Monitor | None = None

    def wake(self) -> None:
        """Something changed: reconcile soon."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        settings, port = self._thread.settings, self._thread.kernel.port
        monitor = self._monitor = await self._thread.call(Monitor, settings, port)
        loop = asyncio.get_running_loop()
        for listener in monitor.sockets:
            loop.add_reader(listener.socket.fileno(), self._on_kernel_event)
        try:
            while True:
                started = time.monotonic()
                delay_s = await self._round()
                self._last_round_s = time.monotonic() - started
                await self._sleep(delay_s)
        finally:
            for listener in monitor.sockets:
                loop.remove_reader(listener.socket.fileno())
            monitor.close()

    async def once(self) -> Outcome | None:
        """One reconcile; None where the inputs are not there yet."""
        inputs = self._inputs()
        if inputs is None:
            return None
        is_repair = inputs.version == self._version
        with self._metrics.reconcile.time():
            outcome = await self._converge(inputs, is_repair=is_repair)
        self._version = inputs.version
        self._metrics.show(outcome.actual)
        self._log_troubles(outcome)
        self._on_outcome(outcome)
        return outcome

    def _on_kernel_event(self) -> None:
        if self._monitor is not None and self._monitor.drain():
            self._wake.set()

    async def _round(self) -> float:
        """Reconcile, whatever happens; seconds until the next one is due by the clock."""
        self._wake.clear()
        try:
            outcome = await self.once()
            failed = outcome is not None and bool(outcome.failures)
        except (MeshError, NetlinkError, OSError) as error:
            if not isinstance(error, Retriable) or self._retries == 0:
                _LOG.warning("reconcile: %s", error)
            self._metrics.errors.labels("observe").inc()
            failed = True
        self._retries = self._retries + 1 if failed else 0
        delay_s = min(2.0 ** (self._retries - 1), _LONGEST_RETRY_S) if failed else self._resync_s
        return delay_s * random.uniform(0.8, 1.0)  # noqa: S311  # spreads load, hides nothing

    async def _sleep(self, delay_s: float) -> None:
        """Until something wakes us or the time has come; beats meanwhile."""
        started = time.monotonic()
        deadline = started + delay_s
        while (left := deadline - time.monotonic()) > 0 and not self._wake.is_set():
            self._on_beat()
            try:
                await asyncio.wait_for(self._wake.wait(), min(left, self._beat_s))
            except TimeoutError:
                continue
        self._on_beat()
        if self._wake.is_set():
            rest_s = self._last_round_s - (time.monotonic() - started)
            await asyncio.sleep(max(_SETTLE_S, min(rest_s, _LONGEST_REST_S)))

    async def _converge(self, inputs: Inputs, *, is_repair: bool) -> Outcome:
        """Write until nothing differs, or until writing fails."""
        failures: tuple[Failure, ...] = ()
        for attempt in range(_PASSES):
            wanted, state, changes = await self._thread.call(self._compare, inputs)
            if not changes:
                break
            report = await self._thread.call(self._thread.kernel.apply, changes)
            self._metrics.count_changes(changes, is_repair=is_repair and attempt == 0)
            self._metrics.count_failures(report.failures)
            failures = report.failures
            log_changes(changes, is_repair=is_repair)
            if failures:
                wanted, state, _ = await self._thread.call(self._compare, inputs)
                break
        self._watch(state)
        return Outcome(wanted, state.marked, failures)

    def _compare(self, inputs: Inputs) -> tuple[Desired, KernelState, Changes]:
        return compare(self._thread.kernel, self._thread.settings, inputs)

    def _watch(self, state: KernelState) -> None:
        if self._monitor is None:
            return
        involved = {name for device in state.marked.devices.values() for name in (device.name, device.lower)}
        indexes = (state.around.links[name].index for name in involved if name in state.around.links)
        self._monitor.watch(frozenset(indexes))

    def _log_troubles(self, outcome: Outcome) -> None:
        """Once when they appear, and once when the last is gone: never again in each round."""
        failures, problems = frozenset(outcome.failures), frozenset(outcome.wanted.problems)
        for failure in sorted(failures - self._last_failures, key=str)[:_LINES]:
            _LOG.warning("%s: %s", failure.object, failure.reason)
        for problem in sorted(problems - self._last_problems, key=str)[:_LINES]:
            _LOG.warning("%s: %s: %s", problem.reason, problem.object, problem.message)
        for solved in sorted(self._last_problems - problems, key=str)[:_LINES]:
            _LOG.info("solved: %s: %s", solved.reason, solved.object)
        for reason in {problem.reason for problem in self._last_problems | problems}:
            self._metrics.problems.labels(reason).set(sum(problem.reason == reason for problem in problems))
        self._last_failures, self._last_problems = failures, problems


def compare(kernel: Kernel, settings: Dataplane, inputs: Inputs) -> tuple[Desired, KernelState, Changes]:
    """Read the kernel and plan against it: the same for a reconcile and for ``--dry-run``."""
    state = kernel.observe()
    wanted = desired(inputs.local, inputs.remotes, settings, state)
    return wanted, state, diff(wanted.marked, state.marked)


def log_changes(changes: Changes, *, is_repair: bool) -> None:
    """One line per change; a summary where there are many."""
    word = "repaired" if is_repair else "wrote"
    for kind, delta in changes.deltas():
        for verb, values in ((word, delta.put), ("removed", delta.delete)):
            if len(values) > _LINES:
                _LOG.info("%s %d %s", verb, len(values), kind)
                continue
            for value in values:
                _LOG.info("%s %s", verb, value)
    if changes.nft is not None:
        _LOG.info("%s", changes.nft)
