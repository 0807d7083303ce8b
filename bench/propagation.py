"""``propagation``: a remote pod becomes ready -> local EndpointSlice -> kube-proxy's rule.

Two real clusters without kubelets in one network namespace: API servers, controller managers, and the local kube-proxy
in nftables mode without a pause between syncs. The reference is a local Service of the same API server, behind the
same kube-proxy, in turns with ours. The clock starts when the API server of the pod has acknowledged that it is ready
and stops when nftables tells of a rule for its address. Pods are readied one at a time, each again only after all
others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from clustermesh_lab import ControlPlane
from clustermesh_lab.build import program
from clustermeshd.kube import resources
from clustermeshd.kube.client import Client

from bench import site
from bench.federation import (
    NAMESPACE,
    Clusters,
    Size,
    client_of,
    clusters,
    controller,
    create,
    fill_selected,
)
from bench.report import BenchError, Ratio, Table, percentile

_PORT = 8080
_RULE = re.compile(rf"^add rule ip kube-proxy .* dnat .*?(\d+\.\d+\.\d+\.\d+) \. {_PORT}")
_TIMEOUT_S = 30.0
_CONTROLLERS = "*,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--services", type=int, default=1000, help="federated Services")
    parser.add_argument("--changes", type=int, default=500, help="of each way")


def run(options: argparse.Namespace) -> list[Ratio]:
    size = Size(remotes=1, services=options.services, endpoints=1)
    table = Table("way", "changes", "slice p50 ms", "slice p99 ms", "rule p50 ms", "rule p99 ms", "rule max ms")
    flags = {"kube-controller-manager": {"controllers": _CONTROLLERS}}
    with _inside(), clusters(size, controller_manager=True, flags=flags) as (made, directory):
        _fill(made)
        made.join()
        with controller(made.local.kubeconfig, directory) as running, _kube_proxy(made.local, directory):
            running.until_in_sync(1, size.services)
            with contextlib.closing(_Rules()) as rules:
                samples = asyncio.run(_Run(made).turns(options.changes, rules))
    for way, (slices, rules) in samples.items():
        figures = [percentile(slices, p) for p in (50, 99)] + [percentile(rules, p) for p in (50, 99)] + [max(rules)]
        table.row(way, len(rules), *(1000 * figure for figure in figures))
    ours, reference = samples["federated"][1], samples["local"][1]
    print(f"p50 ratio {statistics.median(ours) / statistics.median(reference):.2f}")
    return [Ratio("propagation", percentile(ours, 99) / percentile(reference, 99), 2.0)]


@contextlib.contextmanager
def _inside() -> Iterator[None]:
    """This process and its children in a namespace of their own: kube-proxy writes rules there."""
    with site.node("p") as space, Path("/proc/thread-self/ns/net").open() as before:
        with Path("/run/netns", space.name).open() as own:
            _enter(own.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(namespace: int) -> None:
    """setns(2) of this thread, for a network namespace only (CLONE_NEWNET)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _fill(made: Clusters) -> None:
    """One pod a Service in both clusters, not ready; federated Services over the remote ones."""
    fill_selected(made, _PORT)
    services = (
        {
            "metadata": {"name": f"l{n}", "namespace": NAMESPACE},
            "spec": {"selector": {"app": f"a{n}"}, "ports": [{"name": "http", "port": 80, "targetPort": _PORT}]},
        }
        for n in range(made.size.services)
    )
    create(made.local, resources.SERVICES, services)


@contextlib.contextmanager
def _kube_proxy(api: ControlPlane, directory: Path) -> Iterator[None]:
    config = directory / "proxy.json"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "clientConnection": {"kubeconfig": str(api.kubeconfig), "qps": 200, "burst": 400},
                "mode": "nftables",
                "hostnameOverride": "r5-0",
                "detectLocalMode": "ClusterCIDR",
                "clusterCIDR": "10.8.0.0/16",
                "nftables": {"minSyncPeriod": "1ms", "syncPeriod": "1h"},
                "healthzBindAddress": "127.0.0.1:10256",
                "metricsBindAddress": "127.0.0.1:10249",
                "conntrack": {"maxPerCore": 0},
            }
        )
    )
    with (directory / "kube-proxy.log").open("ab") as log:
        process = subprocess.Popen([*program("kube-proxy"), f"--config={config}"], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


class _Rules:
    """When nftables told of a new rule for an address."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", "nft", "monitor", "new"], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            now = time.perf_counter()
            found = _RULE.search(line)
            if found:
                self._seen.setdefault(found[1], now)

    def forget(self, address: str) -> None:
        self._seen.pop(address, None)

    async def when(self, address: str) -> float:
        deadline = time.monotonic() + _TIMEOUT_S
        while address not in self._seen:
            if time.monotonic() > deadline:
                raise BenchError(f"no rule for {address} within {_TIMEOUT_S:g} s")
            await asyncio.sleep(0.002)
        return self._seen[address]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


class _Run:
    """Readies pods of the two ways in turns."""

    def __init__(self, made: Clusters) -> None:
        self._made = made
        self._slices: dict[str, float] = {}

    async def turns(self, changes: int, rules: _Rules) -> dict[str, tuple[list[float], list[float]]]:
        samples: dict[str, tuple[list[float], list[float]]] = {"federated": ([], []), "local": ([], [])}
        async with (
            await client_of(self._made.local) as local,
            await client_of(self._made.remotes[0]) as remote,
        ):
            _, version = await local.list(resources.ENDPOINT_SLICES, NAMESPACE)
            watch = asyncio.create_task(self._watch(local, version))
            for number in range(changes + 10):
                for way in sorted(samples, reverse=bool(number % 2)):
                    pod = number % self._made.size.services
                    client = remote if way == "federated" else local
                    address = self._made.size.address(0 if way == "federated" else 5, pod)
                    slices, rule = await self._one(client, rules, pod, address)
                    if number >= 10:  # the first few find caches cold
                        samples[way][0].append(slices)
                        samples[way][1].append(rule)
            watch.cancel()
        return samples

    async def _one(self, client: Client, rules: _Rules, pod: int, address: str) -> tuple[float, float]:
        self._slices.pop(address, None)
        rules.forget(address)
        await set_ready(client, pod, address, ready=True)
        written = time.perf_counter()
        rule = await rules.when(address) - written
        slices = self._slices.get(address, written) - written
        await set_ready(client, pod, address, ready=False)
        await asyncio.sleep(0.1)
        return slices, rule

    async def _watch(self, local: Client, version: str) -> None:
        query = {"watch": "true", "resourceVersion": version}
        async with local.stream(resources.ENDPOINT_SLICES.path(NAMESPACE), query, idle_timeout_s=120) as lines:
            async for line in lines:
                now = time.perf_counter()
                for endpoint in json.loads(line)["object"].get("endpoints") or ():
                    if endpoint["conditions"].get("ready"):
                        self._slices.setdefault(endpoint["addresses"][0], now)


async def set_ready(client: Client, pod: int, address: str, *, ready: bool) -> None:
    """What a kubelet writes when a pod becomes ready, or no longer is."""
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": str(ready)}, {"type": "ContainersReady", "status": str(ready)}],
    }
    path = resources.PODS.path(NAMESPACE, f"p{pod}", "status")
    body = json.dumps({"status": status}).encode()
    await client.request("PATCH", path, body=body, content_type="application/merge-patch+json")
