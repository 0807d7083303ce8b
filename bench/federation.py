"""Clusters full of Services for the benchmarks of the controller: real API servers, a real controller process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clustermesh_lab import ControlPlane
from clustermesh_lab.audit import is_write
from clustermesh_lab.build import program
from clustermesh_lab.process import cpu_s
from clustermeshd.kube import resources
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.kube.resources import Resource
from clustermeshd.model import names

from bench.report import BenchError
from bench.site import CRDS

NAMESPACE: Final = "shop"
_AT_ONCE: Final = 24
_PER_NODE: Final = 250
_USER_AGENT: Final = "clustermeshd/"


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is: remote clusters, Services of one name in each, endpoints of each of those."""

    remotes: int = 2
    services: int = 1000
    endpoints: int = 50

    @property
    def total(self) -> int:
        """Remote endpoints."""
        return self.remotes * self.services * self.endpoints

    def address(self, remote: int, number: int) -> str:
        """Address of a remote pod: 10.<100 + remote>..., 250 to a node."""
        node, host = divmod(number, _PER_NODE)
        return f"10.{100 + 4 * remote + node // 256}.{node % 256}.{host + 1}"

    def nodes(self) -> int:
        return -(-self.services * self.endpoints // _PER_NODE)


class Clusters:
    """A local cluster and its remote ones."""

    def __init__(self, local: ControlPlane, remotes: list[ControlPlane], size: Size) -> None:
        self.local, self.remotes, self.size = local, remotes, size

    def fill(self) -> None:
        """Nodes, backing Services and slices in the remotes; federated Services in the local cluster."""
        for number, api in enumerate(self.remotes):
            for resource, bodies in remote_bodies(self.size, number).items():
                create(api, resource, bodies)
            _node_status(api, self.size, number)
        create(self.local, resources.SERVICES, federated_bodies(self.size))

    def join(self) -> None:
        """Let the local cluster read the remote ones."""
        for number, api in enumerate(self.remotes):
            for resource, body in peer_bodies(number, api.kubeconfig).items():
                create(self.local, resource, [body])

    def writes(self) -> int:
        """Write requests of the controller so far, by the API server's audit log."""
        count = 0
        with self.local.audit_log.open() as log:
            for line in log:
                if '"ResponseComplete"' in line and _USER_AGENT in line:
                    event = json.loads(line)
                    count += is_write(event) and "leases" not in event["requestURI"]
        return count


class Controller:
    """A controller process of the local cluster, alone (no election)."""

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._log = directory / "controller.log"
        command = [sys.executable, "-m", "clustermeshd.cli.daemon", "controller", "--no-leader-election"]
        options = ["--kubeconfig", str(kubeconfig), "--health-port", str(self._port), "--log-level", "warning"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, env=environment(), start_new_session=True
            )

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def metric(self, line_begin: str) -> float:
        """Sum of the samples whose line begins so."""
        return self.metrics(line_begin)[0]

    def metrics(self, *line_begins: str) -> list[float]:
        """Sums of several, scraped at once: a scrape costs the controller what it measures."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        patterns = [rf"^{re.escape(line_begin)}\S* (\S+)$" for line_begin in line_begins]
        return [sum(map(float, re.findall(pattern, text, re.MULTILINE))) for pattern in patterns]

    def until_in_sync(self, peers: int, services: int, timeout_s: float = 600) -> float:
        """Waits until every peer is in sync and every Service was brought up to date; seconds it took."""
        started = time.monotonic()
        while time.monotonic() - started < timeout_s:
            if self.process.poll() is not None:
                raise BenchError(f"the controller ended: {self._log.read_text()[-2000:]}")
            with contextlib.suppress(OSError):
                # costs the controller less than a scrape, and says no for most of the time
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=30).close()
                wanted = {
                    "clustermesh_federation_in_sync": 1,
                    "clustermesh_federation_clusters": peers + 1,
                    "clustermesh_federated_services": services,
                }
                if self.metrics(*wanted) == list(wanted.values()):
                    return time.monotonic() - started
            time.sleep(0.05)
        raise BenchError(f"not in sync after {timeout_s:g} s: {self._log.read_text()[-2000:]}")

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmHWM"))

    def cpu_s(self) -> float:
        return cpu_s(self.process.pid)


def environment() -> dict[str, str]:
    """As an installed program has it: compiled modules are kept."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


@contextlib.contextmanager
def clusters(
    size: Size, *, controller_manager: bool = False, flags: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[tuple[Clusters, Path]]:
    """API servers, filled; and a directory for logs."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wide = {"kube-apiserver": {"max-requests-inflight": "2000", "max-mutating-requests-inflight": "1000"}}
        made = [
            stack.enter_context(
                ControlPlane(
                    name=name,
                    services=(f"10.{96 + i}.0.0/16",),
                    controller_manager=controller_manager,
                    flags={**wide, **(flags or {})},
                )
            )
            for i, name in enumerate(["local", *(f"remote{i}" for i in range(size.remotes))])
        ]
        kubectl(made[0], "apply", "--server-side", "-f", str(CRDS))
        kubectl(made[0], "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        for api in made:
            create(api, resources.NAMESPACES, [{"metadata": {"name": NAMESPACE}}])
        yield Clusters(made[0], made[1:], size), directory


@contextlib.contextmanager
def controller(kubeconfig: Path, directory: Path) -> Iterator[Controller]:
    made = Controller(kubeconfig, directory)
    try:
        yield made
    finally:
        made.close()


def kubectl(api: ControlPlane, *argv: str) -> str:
    command = [*program("kubectl"), f"--kubeconfig={api.kubeconfig}", *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


async def client_of(api: ControlPlane) -> Client:
    return Client(await from_file(api.kubeconfig), user_agent="bench")


async def many(workers: int, work: Callable[[Any], Awaitable[object]], items: Iterable[Any]) -> None:
    """Does some work on each item, several at once."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())


def create(api: ControlPlane, resource: Resource[Any], bodies: Iterable[Mapping[str, Any]]) -> None:
    async def work() -> None:
        async with await client_of(api) as client:

            async def create(body: Mapping[str, Any]) -> None:
                await client.create(resource, body, body["metadata"].get("namespace"))

            await many(_AT_ONCE, create, bodies)

    asyncio.run(work())


def remote_bodies(size: Size, remote: int) -> dict[Resource[Any], Iterator[dict[str, Any]]]:
    """What there is in a remote cluster."""
    return {
        resources.NODES: (_node(size, remote, n) for n in range(size.nodes())),
        resources.SERVICES: map(_backing, range(size.services)),
        resources.ENDPOINT_SLICES: (slice_body(size, remote, n) for n in range(size.services)),
    }


def peer_bodies(number: int, kubeconfig: Path) -> dict[Resource[Any], dict[str, Any]]:
    """What lets the local cluster read a remote one."""
    name = f"remote{number}"
    data = {"kubeconfig": b64encode(kubeconfig.read_bytes()).decode()}
    spec = {"clusterAccessSecret": {"name": name, "namespace": "default"}}
    return {
        resources.SECRETS: _meta(name, "default") | {"data": data},
        resources.REMOTE_CLUSTER_CONFIGURATIONS: {"metadata": {"name": name}, "spec": spec},
    }


def federated_bodies(size: Size) -> Iterator[dict[str, Any]]:
    """The Services of the local cluster."""
    return map(_federated, range(size.services))


def _meta(name: str, namespace: str = NAMESPACE, **more: object) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, **more}}


def _node(size: Size, remote: int, number: int) -> dict[str, Any]:
    """A node; its status counts only where that is no subresource."""
    cidr = size.address(remote, number * _PER_NODE).rsplit(".", 1)[0] + ".0/24"
    spec = {"podCIDR": cidr, "podCIDRs": [cidr]}
    return {"metadata": {"name": f"r{remote}-{number}"}, "spec": spec, "status": _status(remote, number)}


def _status(remote: int, number: int) -> dict[str, Any]:
    return {"addresses": [{"type": "InternalIP", "address": f"192.168.{10 + remote}.{number + 1}"}]}


def _node_status(api: ControlPlane, size: Size, remote: int) -> None:
    """Addresses of the nodes: status is a subresource."""

    async def work() -> None:
        async with await client_of(api) as client:

            async def patch(number: int) -> None:
                body = json.dumps({"status": _status(remote, number)}).encode()
                path = resources.NODES.path(name=f"r{remote}-{number}", subresource="status")
                await client.request("PATCH", path, body=body, content_type="application/merge-patch+json")

            await many(_AT_ONCE, patch, range(size.nodes()))

    asyncio.run(work())


def _backing(number: int) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return _meta(f"b{number}", labels={"app": f"a{number}", "team": f"t{number % 20}"}) | {"spec": {"ports": ports}}


def _federated(number: int) -> dict[str, Any]:
    annotations = {names.SERVICE_SELECTOR: f"app == 'a{number}'"}
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return _meta(f"f{number}", annotations=annotations) | {"spec": {"ports": ports}}


def slice_body(
    size: Size, remote: int, number: int, *, trigger: str = "", unready: int | None = None
) -> dict[str, Any]:
    """The EndpointSlice of one backing Service; ``unready`` is the endpoint that is not ready."""
    annotations = {names.LAST_CHANGE_TRIGGER: trigger} if trigger else {}
    meta = _meta(f"b{number}-x1", labels={names.SERVICE_NAME: f"b{number}"}, annotations=annotations)
    first = number * size.endpoints
    endpoints = [
        {
            "addresses": [size.address(remote, first + i)],
            "conditions": {"ready": i != unready, "serving": i != unready, "terminating": False},
            "nodeName": f"r{remote}-{(first + i) // _PER_NODE}",
            "zone": f"zone-{i % 3}",
            "targetRef": {
                "kind": "Pod",
                "namespace": NAMESPACE,
                "name": f"b{number}-6d4cf56db6-{i:05d}",
                "uid": f"{remote:08d}-0000-4000-8000-{first + i:012d}",
            },
        }
        for i in range(size.endpoints)
    ]
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return meta | {"addressType": "IPv4", "ports": ports, "endpoints": endpoints}


def fill_selected(made: Clusters, port: int) -> None:
    """One pod a Service in the local and in the first remote cluster, not ready, and Services that select them.

    The local pods have addresses of a sixth cluster, so that no prefix overlaps.
    """
    size = made.size
    for remote, api in ((0, made.remotes[0]), (5, made.local)):
        create(api, resources.NODES, (_node(size, remote, n) for n in range(size.nodes())))
        _node_status(api, size, remote)
        _until_account(api)
        create(api, resources.PODS, (_pod(remote, n) for n in range(size.services)))
    selected = ({"selector": {"app": f"a{n}"}, "ports": [_named(port)]} for n in range(size.services))
    create(
        made.remotes[0],
        resources.SERVICES,
        (_meta(f"b{n}", labels={"app": f"a{n}"}) | {"spec": spec} for n, spec in enumerate(selected)),
    )
    create(made.local, resources.SERVICES, federated_bodies(size))


def _named(port: int) -> dict[str, Any]:
    return {"name": "http", "port": 80, "targetPort": port, "protocol": "TCP"}


def _pod(remote: int, number: int) -> dict[str, Any]:
    return _meta(f"p{number}", labels={"app": f"a{number}"}) | {
        "spec": {
            "nodeName": f"r{remote}-{number // _PER_NODE}",
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "none"}],
        }
    }


def _until_account(api: ControlPlane) -> None:
    """Pods are refused before the controller manager has made the namespace's account."""
    deadline = time.monotonic() + 60
    while subprocess.run(
        [*program("kubectl"), f"--kubeconfig={api.kubeconfig}", "get", "serviceaccount", "default", "-n", NAMESPACE],
        capture_output=True,
        check=False,
    ).returncode:
        if time.monotonic() > deadline:
            raise BenchError("no default ServiceAccount after 60 s")
        time.sleep(0.2)
