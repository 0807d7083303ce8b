"""A real API server inside a node's namespace, filled with RemoteNodes, and real agents of that node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from clustermesh_lab import ControlPlane
from clustermesh_lab.build import program
from clustermeshd.kube import resources
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.kube.resources import Resource

from bench import facts, site
from bench.site import Agent, Namespace

_AT_ONCE = 16
T = TypeVar("T")


class Cluster:
    """One node with an API server on its own loopback."""

    def __init__(self, space: Namespace, api: ControlPlane, directory: Path, stack: contextlib.ExitStack) -> None:
        self.space, self.api, self._directory, self._stack = space, api, directory, stack
        self._agents = 0

    def kubectl(self, *argv: str, text: str | None = None) -> str:
        """Output of ``kubectl`` as cluster administrator."""
        command = ["ip", "netns", "exec", self.space.name, *program("kubectl"), f"--kubeconfig={self.api.kubeconfig}"]
        done = subprocess.run([*command, *argv], input=text, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout

    def agent(self) -> Agent:
        """A real agent, running; ended with the cluster if not before."""
        self._agents += 1
        directory = self._directory / f"agent{self._agents}"
        directory.mkdir()
        agent = Agent(self.space, directory, self.api.kubeconfig, "--log-level", "info")
        self._stack.callback(agent.close)
        return agent

    def uninstall(self) -> None:
        """Remove what an agent that has ended left in the kernel."""
        self.space.run(sys.executable, "-m", "clustermeshd.cli.daemon", "agent", "--uninstall")

    def shell(self, script: str) -> subprocess.Popen[bytes]:
        """A shell script in the node's namespace, with $KUBECTL; to be ended with ``end``, else with the cluster."""
        kubectl = " ".join([*program("kubectl"), f"--kubeconfig={self.api.kubeconfig}"])
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.space.name, "sh", "-c", script],
            env={**os.environ, "KUBECTL": kubectl},
            start_new_session=True,  # it is a pipeline: it ends as a group
        )
        self._stack.callback(end, process)
        return process

    def create(self, remotes: Iterable[RemoteNode]) -> None:
        """Write many RemoteNodes."""
        self.create_all(resources.REMOTE_NODES, map(_body, remotes))

    def create_all(self, resource: Resource[Any], bodies: Iterable[Mapping[str, Any]]) -> None:
        """Write many objects, several at once."""
        waiting = iter(bodies)

        async def worker(client: Client) -> None:
            for body in waiting:
                await client.create(resource, body)

        async def work() -> None:
            async with await self.client() as client, asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(worker(client))

        self.space.call(lambda: asyncio.run(work()))

    async def client(self) -> Client:
        """To be called, and used, in the namespace."""
        return Client(await from_file(self.api.kubeconfig), user_agent="bench")

    def routes(self, table: int) -> int:
        return len(self.space.run("ip", "route", "show", "table", str(table)).splitlines())


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a script with all its parts."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


async def create(client: Client, remote: RemoteNode) -> None:
    await client.create(resources.REMOTE_NODES, _body(remote))


def _body(remote: RemoteNode) -> dict[str, Any]:
    return {
        "apiVersion": resources.REMOTE_NODES.api_version,
        "kind": "RemoteNode",
        "metadata": {"name": remote.metadata.name},
        "spec": msgspec.to_builtins(remote.spec),
    }


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """``site.node`` with an API server that serves our kinds and knows the node."""
    with contextlib.ExitStack() as stack:
        space = stack.enter_context(site.node())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = ControlPlane(name="bench", services=("10.96.0.0/16",))
        stack.callback(_inside(space, api.stop))
        _inside(space, api.start)()
        made = Cluster(space, api, directory, stack)
        made.kubectl("apply", "--server-side", "-f", str(site.CRDS))
        made.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        _write_node(made)
        yield made


def _inside(space: Namespace, function: Callable[[], T]) -> Callable[[], T]:
    return lambda: space.call(function)


def _write_node(made: Cluster) -> None:
    node = facts.local()
    cidrs = list(map(str, node.pod_cidrs))
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
    }
    addresses = [{"type": "InternalIP", "address": str(address)} for address in node.addresses]
    made.kubectl("create", "-f", "-", text=msgspec.json.encode(body).decode())
    patch = msgspec.json.encode({"status": {"addresses": addresses}}).decode()
    made.kubectl("patch", "node", node.name, "--subresource=status", "--type=merge", "-p", patch)
