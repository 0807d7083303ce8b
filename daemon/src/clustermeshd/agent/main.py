"""The agent process: its API server on one side, the kernel on the other."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Final

from clustermeshd import __version__
from clustermeshd.agent import once
from clustermeshd.agent.dataplane import KernelThread, Reconciler
from clustermeshd.agent.engine import Outcome
from clustermeshd.agent.inputs import ClusterInputs
from clustermeshd.agent.metrics import Metrics
from clustermeshd.agent.options import AgentOptions
from clustermeshd.agent.prober import Prober
from clustermeshd.agent.status import StatusWriter
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.model.errors import Fatal, MeshError
from clustermeshd.runtime import health, logs
from clustermeshd.runtime.notify import Notifier

_LOG = logging.getLogger(__name__)
_CAP_NET_ADMIN: Final = 12
_ONCE_TIMEOUT_S: Final = 60.0
_TURN_S: Final = 0.0002  # between threads: each step of an event waits so long for one that computes, by default 5 ms
_STUCK_S: Final = 60.0  # a loop that did not turn for so long is reported as unhealthy


def run(options: AgentOptions) -> int:
    """Runs until SIGTERM or SIGINT, which leave the data plane in place; exit status 0 then, 1 on failure."""
    logs.configure(options.log_format, options.log_level)
    sys.setswitchinterval(_TURN_S)
    status = 1
    try:
        options.check()
        if not options.dry_run:
            _require_capability()
        if options.uninstall:
            return once.uninstall(options.dataplane)
        status = asyncio.run(_run_once(options) if options.once else _Process(options).run())
    except* MeshError as group:  # alone, or out of a group of tasks
        for text in dict.fromkeys(map(str, logs.each(group))):
            _LOG.error("%s", text)  # a message for people, no traceback
    return status


def _require_capability() -> None:
    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    if not effective >> _CAP_NET_ADMIN & 1:
        raise Fatal("CAP_NET_ADMIN is missing; run as root or give the unit AmbientCapabilities=CAP_NET_ADMIN")


async def _client(options: AgentOptions) -> Client:
    access = await from_file(options.kubeconfig, options.context)
    return Client(access, user_agent=f"clustermeshd/{__version__} (agent)")


async def _run_once(options: AgentOptions) -> int:
    thread = KernelThread(options.dataplane)
    try:
        async with await _client(options) as client, asyncio.TaskGroup() as group:
            inputs = ClusterInputs(client, options.node_name, lambda: None)
            reader = group.create_task(inputs.run())
            try:
                return await _reconcile_once(options, thread, inputs, client)
            finally:
                reader.cancel()
    finally:
        thread.close()


async def _reconcile_once(options: AgentOptions, thread: KernelThread, inputs: ClusterInputs, client: Client) -> int:
    try:
        await asyncio.wait_for(inputs.wait_synced(), _ONCE_TIMEOUT_S)
    except TimeoutError as error:
        raise Fatal(f"the API server did not answer within {_ONCE_TIMEOUT_S:.0f} s; nothing was written") from error
    snapshot = inputs.snapshot()
    if snapshot is None:
        raise Fatal(f"there is no Node {options.node_name}; set --node-name")
    if options.dry_run:
        return await once.dry_run(thread, snapshot, options.output)
    writer = StatusWriter(client, options.node_name, lambda: inputs.node)
    reconciler = Reconciler(thread, inputs, metrics=Metrics(), on_outcome=writer.offer)
    outcome = await reconciler.once()
    await writer.write()
    return 1 if outcome is None or outcome.failures else 0


class _Process:
    """The parts of a running agent and what they tell the service manager."""

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._metrics = Metrics()
        self._notifier = Notifier()
        self._is_ready = False
        self._mtus: Mapping[tuple[str, int], int] = {}
        self._last_beat = time.monotonic()

    async def run(self) -> int:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        options = self._options
        self._notifier.status(f"waiting for the API server and Node {options.node_name}")
        thread = KernelThread(options.dataplane)
        try:
            async with (
                await _client(options) as client,
                health.serve(
                    options.health_host,
                    options.health_port,
                    registry=self._metrics.registry,
                    is_healthy=lambda: time.monotonic() - self._last_beat < _STUCK_S,
                    is_ready=lambda: self._is_ready,
                ),
                asyncio.TaskGroup() as group,
            ):
                self._metrics.input_age.set_function(lambda: client.silence_s)
                tasks = [group.create_task(part) for part in self._parts(client, thread)]
                _LOG.info("clustermeshd agent %s started for node %s", __version__, options.node_name)
                await stop.wait()
                _LOG.info("stopping; the data plane stays")
                self._notifier.stopping()
                for task in tasks:
                    task.cancel()
        finally:
            thread.close()
        return 0

    def _parts(self, client: Client, thread: KernelThread) -> tuple[Coroutine[None, None, None], ...]:
        inputs = ClusterInputs(client, self._options.node_name, lambda: reconciler.wake())
        probing = self._options.probing

        def on_outcome(outcome: Outcome) -> None:
            self._mtus = outcome.mtus if outcome.mtus is not None else self._mtus
            writer.offer(outcome)
            self._on_outcome(outcome)

        def on_paths() -> None:
            inputs.see_paths(prober.mtus())
            writer.wake()

        prober = Prober(
            probing,
            lambda: inputs.targets(self._mtus),
            lambda: (inputs.version, self._mtus),
            metrics=self._metrics,
            on_change=on_paths,
        )
        summary = prober.summary if probing.sample else lambda: None
        writer = StatusWriter(client, self._options.node_name, lambda: inputs.node, summary)

        reconciler = Reconciler(
            thread,
            inputs,
            metrics=self._metrics,
            on_outcome=on_outcome,
            on_beat=self._on_beat,
            beat_s=self._notifier.watchdog_interval_s or 5.0,
        )
        parts = inputs.run(), writer.run(), reconciler.run()
        return (*parts, prober.run()) if probing.sample else parts

    def _on_beat(self) -> None:
        self._last_beat = time.monotonic()
        self._notifier.alive()

    def _on_outcome(self, outcome: Outcome) -> None:
        if not self._is_ready:  # single failures are told in status; the rest of the mesh works
            self._is_ready = True
            gc.freeze()  # what is there now stays: no later search for garbage looks at it
            self._notifier.ready()
        found = outcome.summary
        nodes = sum(peer.programmed_nodes for peer in found.peers)
        troubles = len(outcome.failures) + len(found.problems)
        text = f"{len(found.peers)} clusters, {nodes} nodes, {found.objects['routes']} routes"
        self._notifier.status(f"{text}, {troubles} problems" if troubles else text)
