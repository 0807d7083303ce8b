"""Beside the reference CNI plugins with their own masquerade: real programs make the pod, the mesh keeps its source.

The plugins are containernetworking's ``ptp`` and ``bridge`` (https://www.cni.dev/plugins/current/main/), with both
backends of ``ipMasq``.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from clustermesh_lab.build import program
from kernel_topology import Namespace, Topology
from kernel_traffic import Echo, Sink, ask, send_tcp

OUTSIDE = {4: "10.90.1.1", 6: "fd90:1::1"}  # the router
NODE_A = {4: "10.90.1.2", 6: "fd90:1::2"}
POD_B = {4: "10.92.1.5", 6: "fd92:1::5"}
KINDS = {"ptp": {}, "bridge": {"bridge": "cni0", "isGateway": True, "hairpinMode": True}}


def add(node: Namespace, pod: Namespace, network: dict, scratch: Path) -> dict[int, str]:
    """CNI ADD in the node's namespace; the pod's address by family."""
    (plugin,) = program(network["type"])
    environment = {
        **os.environ,
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": pod.name,
        "CNI_NETNS": f"/run/netns/{pod.name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": os.pathsep.join({str(Path(program(name)[0]).parent) for name in (network["type"], "host-local")}),
    }
    ranges = [
        [{"subnet": "10.91.1.0/24", "rangeStart": "10.91.1.20"}],
        [{"subnet": "fd91:1::/64", "rangeStart": "fd91:1::20"}],
    ]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    ipam = {"type": "host-local", "dataDir": str(scratch), "ranges": ranges, "routes": routes}
    document = {"cniVersion": "1.0.0", "name": "pods", "ipMasq": True, "ipam": ipam, **network}
    command = ["ip", "netns", "exec", node.name, plugin]
    done = subprocess.run(
        command, input=json.dumps(document), env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [entry["address"].partition("/")[0] for entry in json.loads(done.stdout)["ips"]]
    return {6 if ":" in address else 4: address for address in found}


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_of_the_plugin_keeps_its_source_towards_remote_pods_and_towards_nobody_else(
    nodes: Topology, spaces: Callable[[str], Namespace], tmp_path: Path, kind: str, backend: str
) -> None:
    node, pod = nodes.a.space, spaces("plugged")
    node.run("nft", "delete", "table", "inet", "cni")  # the masquerade is the plugin's own
    addresses = add(node, pod, {"type": kind, "ipMasqBackend": backend, **KINDS[kind]}, tmp_path)
    assert sorted(addresses) == [4, 6]
    nodes.a.reconcile()
    nodes.b.reconcile()
    for family, address in addresses.items():
        with Echo(nodes.router, OUTSIDE[family]):
            assert ask(pod, OUTSIDE[family]) == NODE_A[family]
        with Echo(nodes.pod_b, POD_B[family]):
            assert ask(pod, POD_B[family]) == address
        with Echo(pod, address):
            assert ask(nodes.pod_b, address) == POD_B[family]
        with Sink(nodes.pod_b, POD_B[family]):
            assert send_tcp(pod, POD_B[family], 200_000)[0] == f"200000 {address}"
