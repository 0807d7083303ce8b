"""A meshable pair of nodes of which node a has an API server, its Node object and an agent at hand."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from agent_process import Agent, Relay
from clustermesh_lab import ControlPlane
from clustermesh_lab.build import program
from clustermeshd.kube.objects import RemoteNode
from kernel_topology import Topology


class Site:
    """Node a under a real agent; node b is programmed by hand."""

    def __init__(self, nodes: Topology, api: ControlPlane, directory: Path, kubectl: Callable[..., str]) -> None:
        self.nodes, self.api, self.kubectl = nodes, api, kubectl
        self.directory = directory
        self.relay = Relay(nodes.a.space, urlsplit(api.url).port or 443)
        self.agents: list[Agent] = []
        self.write_node()
        nodes.a.cluster = kubectl(api, "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
        nodes.b.remotes = [nodes.a.as_remote()]
        nodes.b.reconcile()

    def start(self, *arguments: str, source: Path | None = None) -> Agent:
        agent = Agent(self.nodes.a.space, self.directory, self.api.kubeconfig, *arguments, source=source)
        self.agents.append(agent)
        return agent

    def write_remote(self, remote: RemoteNode) -> None:
        document = {
            "apiVersion": "clustermesh.io/v1alpha1",
            "kind": "RemoteNode",
            "metadata": {"name": remote.metadata.name},
            "spec": {"overlayRoutingMode": "Disabled"} | msgspec.to_builtins(remote.spec),  # a default is left out
        }
        self.kubectl(self.api, "apply", "--server-side", "-f", "-", stdin=msgspec.json.encode(document).decode())

    def delete_remote(self, remote: RemoteNode) -> None:
        self.kubectl(self.api, "delete", "remotenode", remote.metadata.name, "--wait=false")

    def mesh_node(self) -> dict:
        return msgspec.json.decode(self.kubectl(self.api, "get", "meshnode", "node1", "-o", "json"))

    def routes(self) -> int:
        return len(self.nodes.a.observe().marked.routes)

    def write_node(self) -> None:
        """Node a as its kubelet tells it."""
        node = self.nodes.a
        metadata = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}
        spec = {"podCIDR": node.pod_cidrs[0], "podCIDRs": node.pod_cidrs}
        addresses = [{"type": "InternalIP", "address": address} for address in node.addresses]
        document = msgspec.json.encode({**metadata, "spec": spec}).decode()
        self.kubectl(self.api, "apply", "--server-side", "-f", "-", stdin=document)
        patch = msgspec.json.encode({"status": {"addresses": addresses}}).decode()
        self.kubectl(self.api, "patch", "node", "node1", "--subresource=status", "--type=merge", "-p", patch)

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
        self.relay.cut()
        self.kubectl(self.api, "delete", "remotenode,meshnode,node", "--all")
        self.nodes.close()


def kubectl(api: ControlPlane, *argv: str, stdin: str | None = None) -> str:
    command = [*program("kubectl"), f"--kubeconfig={api.kubeconfig}", *argv]
    done = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True, timeout=60)
    assert not done.returncode, f"{argv}: {done.stderr}"
    return done.stdout
