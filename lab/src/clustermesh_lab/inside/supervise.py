"""Keeps the programs of a node or a control plane running, as an init system would.

A program that ends is started again (at once the first time, then with growing pauses), unless a file NAME.hold says
that somebody wants it down. Each start is recorded in NAME.pid by id and start time, so that faults hit the right
process. Files, not a socket: they work across namespaces and there is nothing to keep alive.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..process import ProcessId

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
STEADY_S = 10.0  # a program that ran this long starts with the first pause again
IDLE_S = 0.5
PENDING_S = 0.05
GRACE_S = 3.0


@dataclass(slots=True)
class Component:
    """One program to keep running."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    wait_for: str = ""  # a path that has to exist before the start
    child: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    not_before: float = 0.0
    pause_s: float = FIRST_PAUSE_S


class Supervisor:
    """The loop over all components of one place."""

    def __init__(self, components: list[Component], control: Path, logs: Path) -> None:
        self._components = components
        self._control = control
        self._logs = logs

    def run(self) -> None:
        """Until SIGTERM; then end everything, last started first."""
        watched = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        while True:
            pending = self._start_due()
            got = signal.sigtimedwait(watched, PENDING_S if pending else IDLE_S)
            self._reap()
            if got and got.si_signo != signal.SIGCHLD:
                break
        for component in reversed(self._components):
            self._end(component)

    def _start_due(self) -> bool:
        """Start what should run; whether something still waits."""
        pending = False
        for component in self._components:
            if component.child is not None or (self._control / f"{component.name}.hold").exists():
                continue
            ready = not component.wait_for or Path(component.wait_for).exists()
            if ready and time.monotonic() >= component.not_before:
                self._start(component)
            else:
                pending = True
        return pending

    def _start(self, component: Component) -> None:
        with (self._logs / f"{component.name}.log").open("ab") as out:
            component.child = subprocess.Popen(
                component.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | component.env,
                start_new_session=True,
                preexec_fn=_unblock,
            )
        component.started = time.monotonic()
        found = ProcessId.of(component.child.pid)
        if found:
            found.write(self._control / f"{component.name}.pid")

    def _reap(self) -> None:
        """Collect what ended: components, and as process 1 of a node also every orphan."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for component in self._components:
                if component.child and component.child.pid == pid:
                    self._ended(component, os.waitstatus_to_exitcode(status))

    def _ended(self, component: Component, status: int) -> None:
        if component.child:
            component.child.returncode = status
        component.child = None
        (self._control / f"{component.name}.pid").unlink(missing_ok=True)
        now = time.monotonic()
        if now - component.started > STEADY_S:
            component.pause_s = FIRST_PAUSE_S
        component.not_before = now + component.pause_s
        component.pause_s = min(component.pause_s * 2, LONGEST_PAUSE_S)
        print(f"{component.name} ended with {status}", flush=True)

    def _end(self, component: Component) -> None:
        if component.child is None:
            return
        component.child.send_signal(signal.SIGCONT)
        component.child.terminate()
        deadline = time.monotonic() + GRACE_S
        while component.child is not None and time.monotonic() < deadline:
            signal.sigtimedwait({signal.SIGCHLD}, PENDING_S)
            self._reap()
        if component.child is not None:
            component.child.kill()


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})


def main(spec: dict[str, Any]) -> None:
    """Run what a specification lists: {"control": DIR, "logs": DIR, "components": [...]}."""
    components = [Component(**c) for c in spec["components"]]
    Supervisor(components, Path(spec["control"]), Path(spec["logs"])).run()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
