"""``program-nodes-felix``: the same remote nodes given to a real Felix and to our agent, from start to last route.

Both watch one real API server in one node's namespace and take turns there; what one has programmed is removed before
the other starts. Felix (Calico, nftables mode, VXLAN, Kubernetes datastore) gets a Node with its addresses and an
address block for each remote node, ours gets a RemoteNode. The blocks list no single addresses: less work for Felix.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from clustermesh_lab import calico
from clustermesh_lab.build import program
from clustermeshd.kube import objects, resources
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.kube.resources import Resource

from bench import facts, reference
from bench.cluster import Cluster, cluster
from bench.monitor import RouteMonitor
from bench.report import BenchError, Ratio, Table, in_turn, ratio_of

MIB: Final = 1 << 20
_API: Final = "crd.projectcalico.org"
_BLOCKS: Final = Resource(_API, "v1", "ipamblocks", "IPAMBlock", objects.Object, namespaced=False)
_POOL: Final = "10.128.0.0/9"
_OWN_BLOCK: Final = "10.255.255.0/24"
_TIMEOUT_S: Final = 600.0
_SETTLE_S: Final = 5.0
_FELIX: Final = {
    "DATASTORE_TYPE": "kubernetes",
    "CALICO_NETWORKING_BACKEND": "vxlan",
    "FELIX_DATASTORETYPE": "kubernetes",
    "FELIX_NFTABLESMODE": "Enabled",
    "FELIX_IPV6SUPPORT": "false",
    "FELIX_USAGEREPORTINGENABLED": "false",
    "FELIX_TYPHAK8SSERVICENAME": "none",
    "FELIX_LOGSEVERITYSCREEN": "Warning",
    "FELIX_LOGFILEPATH": "none",
    "FELIX_LOGSEVERITYSYS": "none",
    "FELIX_DebugSkipCTLBCleanup": "true",  # there is no eBPF in a build without cgo
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=10_000, help="remote nodes")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each")


def run(options: argparse.Namespace) -> list[Ratio]:
    remotes = facts.remotes(options.nodes)
    resident: dict[str, list[int]] = {"ours": [], "felix": []}
    with cluster() as made, tempfile.TemporaryDirectory() as directory:
        _write_facts(made, remotes)
        ways = {
            "felix": lambda: _felix(made, remotes, Path(directory), resident["felix"]),
            "ours": lambda: _ours(made, remotes, resident["ours"]),
        }
        samples = in_turn(options.rounds, ways)
    table = Table("way", "seconds", "least", "most", "RSS MiB")
    for name, values in samples.items():
        table.row(name, statistics.median(values), min(values), max(values), max(resident[name]) / MIB)
    return [Ratio("program-nodes-felix/times", ratio_of(samples, "felix", "ours"), 3, at_least=True)]


def _ours(made: Cluster, remotes: Sequence[RemoteNode], resident: list[int]) -> float:
    with _monitor(made) as monitor:
        started = time.perf_counter()
        agent = made.agent()
        took_s = monitor.wait_for(_destinations(remotes), _TIMEOUT_S) - started
    time.sleep(_SETTLE_S)
    resident.append(agent.resident_bytes())
    if made.routes(reference.SETTINGS.table) != len(remotes):
        raise BenchError("our routes do not stay")
    agent.stop()
    made.uninstall()
    return took_s


def _felix(made: Cluster, remotes: Sequence[RemoteNode], directory: Path, resident: list[int]) -> float:
    log = directory / "felix.log"
    environment = {
        **os.environ,
        **_FELIX,
        "KUBECONFIG": str(made.api.kubeconfig),
        "NODENAME": facts.local().name,
        "FELIX_FELIXHOSTNAME": facts.local().name,
    }
    apart = "mount -t tmpfs felix /var && mount -t tmpfs felix /run && mkdir -p /var/run/calico /var/lib/calico"
    apart += f" && exec {program('calico-node')[0]} -felix"  # its files are not the machine's
    command = ["ip", "netns", "exec", made.space.name, "unshare", "--mount", "sh", "-c", apart]
    with _monitor(made) as monitor, log.open("w") as out:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        try:
            took_s = monitor.wait_for(_destinations(remotes), _TIMEOUT_S) - started
            time.sleep(_SETTLE_S)
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident.append(_kib(status) * 1024)
            _check_felix(made, len(remotes))
        except (BenchError, OSError) as error:
            raise BenchError(f"Felix: {error}; its log ends: {log.read_text()[-2000:]}") from error
        finally:
            process.kill()
            process.wait()
    made.space.ip("link", "del", "vxlan.calico")
    made.space.run("nft", "flush", "ruleset")
    return took_s


def _check_felix(made: Cluster, count: int) -> None:
    found = len(made.space.ip("route", "show", "dev", "vxlan.calico").splitlines())
    entries = len(made.space.bridge_json("fdb", "show", "dev", "vxlan.calico"))
    if min(found, entries) < count:
        raise BenchError(f"{found} routes and {entries} FDB entries for {count} remote nodes")


@contextlib.contextmanager
def _monitor(made: Cluster) -> Iterator[RouteMonitor]:
    monitor = made.space.call(RouteMonitor)
    try:
        yield monitor
    finally:
        monitor.close()


def _destinations(remotes: Sequence[RemoteNode]) -> set[bytes]:
    return {ip_network(remote.spec.pod_cidrs[0]).network_address.packed for remote in remotes}


def _kib(status: str) -> int:
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


# ---- what Felix reads


def _write_facts(made: Cluster, remotes: Sequence[RemoteNode]) -> None:
    made.create(remotes)
    made.kubectl("apply", "--server-side", "-f", "-", text=_definitions())
    made.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    made.kubectl("apply", "--server-side", "-f", "-", text=_SETTINGS)
    local = facts.local()
    tunnel = str(ip_network(_OWN_BLOCK).network_address)
    marks = [f"{key}={value}" for key, value in _annotations(f"{local.addresses[0]}/24", tunnel).items()]
    made.kubectl("annotate", "node", local.name, *marks)
    made.create_all(resources.NODES, (_node(remote) for remote in remotes))
    made.create_all(_BLOCKS, [_block(_OWN_BLOCK, local.name), *(_block_of(remote) for remote in remotes)])


_SETTINGS: Final = f"""
apiVersion: {_API}/v1
kind: ClusterInformation
metadata: {{name: default}}
spec: {{datastoreReady: true}}
---
apiVersion: {_API}/v1
kind: IPPool
metadata: {{name: pods}}
spec: {{cidr: {_POOL}, blockSize: 24, vxlanMode: Always, ipipMode: Never, natOutgoing: true}}
"""


def _definitions() -> str:
    documents = calico.objects().split("\n---\n")
    return "\n---\n".join(text for text in documents if "\nkind: CustomResourceDefinition\n" in text)


def _annotations(address: str, tunnel: str) -> dict[str, str]:
    return {"projectcalico.org/IPv4Address": address, "projectcalico.org/IPv4VXLANTunnelAddr": tunnel}


def _node(remote: RemoteNode) -> Mapping[str, Any]:
    spec = remote.spec
    annotations = _annotations(f"{spec.addresses[0]}/16", spec.tunnel_addresses[0])
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": spec.node_name, "annotations": annotations}}


def _block_of(remote: RemoteNode) -> Mapping[str, Any]:
    return _block(remote.spec.pod_cidrs[0], remote.spec.node_name)


def _block(cidr: str, node: str) -> Mapping[str, Any]:
    lists: dict[str, list[Any]] = {"allocations": [], "attributes": [], "unallocated": []}
    name = cidr.replace(".", "-").replace("/", "-")
    spec = {"cidr": cidr, "affinity": f"host:{node}", "strictAffinity": False, "deleted": False, **lists}
    return {"apiVersion": f"{_API}/v1", "kind": "IPAMBlock", "metadata": {"name": name}, "spec": spec}
