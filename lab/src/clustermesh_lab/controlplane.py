"""etcd and an API server alone, for tests of anything that talks to Kubernetes.

Whole clusters take seconds and root; most tests of a client, an informer or a controller need neither nodes nor
network, but they do need the real server: its admission, its 410, its watch bookmarks, its server-side apply. This
starts one on free loopback ports in about four seconds, and lets a test pause, kill and restart its parts.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import socket
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from . import arguments
from .errors import LabError
from .kubeapi import Api
from .pki import Authority
from .places import private_dir
from .process import ProcessId, cpu_s, end, spawn, wait_gone

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

Part = Literal["etcd", "apiserver", "controller-manager"]
PROGRAM_OF: dict[str, str] = {
    "etcd": "etcd",
    "apiserver": "kube-apiserver",
    "controller-manager": "kube-controller-manager",
}
PREFIX = "clustermesh-lab-api-"
PORTS = 4


class ControlPlane:
    """etcd, API server and optionally the controller manager, in the caller's network namespace on loopback.

    A context manager: entering starts it and waits until it is ready; leaving ends it and removes its directory if
    that was temporary. `flags` are further flags of a program (`{"kube-apiserver": {"v": "4"}}`); an empty value takes
    a default flag away.

    Attributes: `url`, `kubeconfig` (cluster admin), `ca`, `audit_log` (one JSON object a line), `directory` (logs as
    PROGRAM.log), `pki`.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        name: str = "control-plane",
        controller_manager: bool = False,
        services: Sequence[str] = ("10.0.0.0/24",),
        flags: Mapping[str, Mapping[str, str]] | None = None,
        ready_timeout_s: float = 60,
    ) -> None:
        _sweep_abandoned()
        self._is_temporary = directory is None
        self.directory = private_dir(directory or Path(tempfile.mkdtemp(prefix=PREFIX)))
        self.name = name
        self._ready_timeout_s = ready_timeout_s
        self._parts: tuple[Part, ...] = ("etcd", "apiserver")
        if controller_manager:
            self._parts = (*self._parts, "controller-manager")
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._plan = arguments.Plan(
            directory=self.directory,
            pki=self.directory / "pki",
            address="127.0.0.1",
            port=0,
            services=tuple(services),
            flags=flags or {},
        )
        self._choose_ports()
        self.pki = Authority(self._plan.pki, name)
        self._issue()

    @property
    def url(self) -> str:
        """Address of the API server."""
        return self._plan.url

    @property
    def ca(self) -> Path:
        """Certificate of the cluster's authority (PEM)."""
        return self.pki.certificate_file

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of a cluster admin (group system:masters)."""
        return self.pki.kubeconfig("admin", self.url, "admin", ["system:masters"], context=self.name)

    @property
    def audit_log(self) -> Path:
        """The API server's audit log at level Metadata, one JSON object a line."""
        return self._plan.audit_log

    @property
    def etcd_url(self) -> str:
        """Address of etcd's client port (plain http on loopback)."""
        return self._plan.etcd_url

    def client(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Kubeconfig of another identity; it may do what RBAC grants that user and those groups."""
        file = "client-" + "-".join(c for part in (user, *groups) for c in [part.replace("/", "_").replace(":", "_")])
        return self.pki.kubeconfig(file, self.url, user, groups, context=self.name)

    def start(self, part: Part | None = None) -> Self:
        """Start everything (or one part that was stopped or killed) and wait until it is ready."""
        for item in (part,) if part else self._parts:
            if not self.is_running(item):
                self._spawn(item)
        self.wait_ready()
        return self

    def stop(self, part: Part | None = None) -> None:
        """End everything (or one part) as an operator would. Everything: also remove a temporary directory."""
        # The API server goes before its store: without it, its shutdown waits a minute for etcd.
        for item in (part,) if part else reversed(self._parts):
            child = self._children.pop(item, None)
            if child:
                found = ProcessId.of(child.pid)
                end([found] if found else [], grace_s=0 if part is None and self._is_temporary else 2)
                child.wait()
        if part is None and self._is_temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self, part: Part) -> None:
        """SIGKILL a part; `start(part)` brings it back with its data."""
        child = self._children.pop(part, None)
        if child:
            child.kill()
            child.wait()

    def pause(self, part: Part) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._child(part).send_signal(signal.SIGSTOP)

    def resume(self, part: Part) -> None:
        """SIGCONT after `pause`."""
        self._child(part).send_signal(signal.SIGCONT)

    def restart(self, part: Part) -> None:
        """Stop and start one part. A restarted API server knows no resource version from before its start."""
        self.stop(part)
        self.start(part)

    def is_running(self, part: Part) -> bool:
        """Whether a part's process runs (paused counts as running)."""
        child = self._children.get(part)
        return child is not None and child.poll() is None

    def cpu_s(self) -> float:
        """Seconds of processor time that its running parts have used."""
        return sum(cpu_s(child.pid) for child in self._children.values() if child.poll() is None)

    def compact(self) -> int:
        """Compact etcd up to now; returns the revision.

        Lists and watches at older resource versions then get 410 Gone, as soon as the API server has to ask etcd: it
        answers from its watch cache as long as that reaches back, so follow with `restart("apiserver")` or run with
        `flags={"kube-apiserver": {"watch-cache": "false"}}`.
        """
        revision = int(self._etcd("kv/range", {"key": "AA=="})["header"]["revision"])
        self._etcd("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def wait_ready(self) -> None:
        """Return when /readyz says ok; raise LabError with the log's last lines when a part ends or time is up."""
        self.pki.issue("admin", "admin", ["system:masters"])
        api = Api(self.url, self.ca, self.pki.directory / "admin.crt", self.pki.directory / "admin.key", timeout_s=5)
        deadline = time.monotonic() + self._ready_timeout_s
        while not api.is_ready():
            for part in self._parts:
                if part in self._children and not self.is_running(part):
                    raise LabError(f"{part} of {self.name} ended: {self._last_words(part)}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"the API server of {self.name} is not ready after {self._ready_timeout_s:g} s: "
                    + self._last_words("apiserver")
                )
            time.sleep(0.05)

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.stop)
            self.start()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _choose_ports(self) -> None:
        with ExitStack() as held:
            sockets = [held.enter_context(socket.socket()) for _ in range(PORTS)]
            for item in sockets:
                item.bind(("127.0.0.1", 0))
            port, etcd, peer, controllers = (s.getsockname()[1] for s in sockets)
        self._plan = replace(self._plan, port=port, etcd_port=etcd, etcd_peer_port=peer, controller_port=controllers)

    def _issue(self) -> None:
        first = str(ipaddress.ip_network(self._plan.services[0])[1])
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1", first]
        self.pki.issue("apiserver", "kube-apiserver", names=names)
        user = "system:kube-controller-manager"
        self.pki.kubeconfig("controller-manager", self.url, user, context=self.name)
        arguments.write_files(self._plan)

    def _spawn(self, part: Part) -> None:
        if part == "etcd":
            line = arguments.etcd(self._plan)
        elif part == "apiserver":
            line = arguments.api_server(self._plan, controllers="controller-manager" in self._parts)
        else:
            line = arguments.controller_manager(self._plan)
        self._children[part] = spawn(line, log=self._log(part), cwd=self.directory)
        self._record()

    def _record(self) -> None:
        """Write down who runs what, so that a later run can end what a crashed one left."""
        known = [ProcessId.of(os.getpid()), *(ProcessId.of(c.pid) for c in self._children.values())]
        (self.directory / "processes.json").write_text(json.dumps([[p.pid, p.started] for p in known if p]))

    def _child(self, part: Part) -> subprocess.Popen[bytes]:
        if part not in self._children:
            raise LabError(f"{part} of {self.name} does not run", do=f"start({part!r}) first")
        return self._children[part]

    def _log(self, part: str) -> Path:
        return self.directory / f"{PROGRAM_OF[part]}.log"

    def _last_words(self, part: str) -> str:
        lines = self._log(part).read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:]) + f" (all of it: {self._log(part)})"

    def _etcd(self, call: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
        request = urllib.request.Request(f"{self.etcd_url}/v3/{call}", json.dumps(body).encode())  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            value: dict[str, dict[str, str]] = json.load(answer)
        return value


def _sweep_abandoned() -> None:
    """End what a killed test run left behind: its owner is gone, its children are still the recorded ones."""
    for record in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/processes.json"):
        try:
            owner, *children = [ProcessId(*entry) for entry in json.loads(record.read_text())]
        except (OSError, ValueError, TypeError):
            continue
        if owner.is_alive() or record.stat().st_uid != os.getuid():
            continue
        for child in children:
            child.send(signal.SIGKILL)
        wait_gone(children, 5)
        shutil.rmtree(record.parent, ignore_errors=True)
