"""The controller process: own API server, Lease, and the work while it leads."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable

from clustermeshd import __version__
from clustermeshd.controller.mesh import Mesh
from clustermeshd.controller.metrics import Metrics
from clustermeshd.controller.options import ControllerOptions
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.kube.lease import Elector
from clustermeshd.model import names
from clustermeshd.model.errors import MeshError
from clustermeshd.runtime import health, logs
from clustermeshd.runtime.notify import Notifier

_LOG = logging.getLogger(__name__)
_GARBAGE = 100_000  # new containers between two searches; facts come in by the hundred thousand and are no garbage


def run(options: ControllerOptions) -> int:
    """Runs until SIGTERM or SIGINT; exit status 0 then, 1 when it could not start."""
    logs.configure(options.log_format, options.log_level)
    gc.freeze()  # modules stay: no search for garbage looks at them
    gc.set_threshold(_GARBAGE)
    try:
        return asyncio.run(_Process(options).run())
    except* MeshError as group:
        for error in logs.each(group):
            _LOG.error("%s", error)  # a message for people, no traceback
    return 1


class _Process:
    def __init__(self, options: ControllerOptions) -> None:
        self._options = options
        self._metrics = Metrics()
        self._notifier = Notifier()
        self._user_agent = f"clustermeshd/{__version__} (controller)"
        self._mesh: Mesh | None = None

    async def run(self) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        access = await from_file(self._options.kubeconfig, self._options.context)
        options = self._options
        async with (
            Client(access, user_agent=self._user_agent) as client,
            health.serve(
                options.health_host,
                options.health_port,
                registry=self._metrics.registry,
                is_healthy=lambda: self._mesh is None or self._mesh.is_alive(),
                is_ready=lambda: self._mesh is None or self._mesh.has_synced,
            ),
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(self._serve(client)), group.create_task(self._alive())]
            self._notifier.ready()
            _LOG.info("clustermeshd controller %s started as %s", __version__, options.identity)
            await stop.wait()
            _LOG.info("stopping; everything that was written stays")
            self._notifier.stopping()
            for task in tasks:
                task.cancel()
        return 0

    async def _serve(self, client: Client) -> None:
        if not self._options.leader_election:
            await self._lead(client, lambda: None)
            return
        elector = Elector(
            client,
            name=names.CONTROLLER_LEASE,
            namespace=self._options.namespace,
            identity=self._options.identity,
        )
        await elector.run(lambda: self._lead(client, elector.check))

    async def _lead(self, client: Client, fence: Callable[[], None]) -> None:
        _LOG.info("leading")
        self._metrics.leader.set(1)
        self._mesh = Mesh(
            client, user_agent=self._user_agent, metrics=self._metrics, notifier=self._notifier, fence=fence
        )
        try:
            await self._mesh.run()
        finally:
            self._mesh = None
            self._metrics.leader.set(0)
            self._notifier.status("standing by")

    async def _alive(self) -> None:
        """A sign of life for the service manager, unless the leader's loop has stopped turning."""
        self._notifier.status("standing by")
        while True:
            if self._mesh is None or self._mesh.is_alive():
                self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_interval_s or 5)
