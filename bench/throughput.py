"""``throughput``: iperf3 from pod to remote pod through our data plane, and through a VXLAN device made by hand.

Two equal topologies (pod, node, router, node, pod, all namespaces). In ours the agent's own plan is programmed with
all rules, beside a masquerading CNI. The reference has the same devices, MTU and routes; in ``bare`` not one nftables
rule exists and nothing is tracked, in ``CNI`` the same CNI masquerades as in ours and exempts the remote pods by hand.
Runs are short and take turns; each ratio is the median over the rounds of the ratios of neighbouring runs. Beside it
stands the same per CPU time of client and server, in whose context packets travel: it bears a busy machine better.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from clustermeshd.model.settings import VXLAN_OVERHEAD_V4

from bench import site
from bench.report import BenchError, Ratio, Table, in_turn

_ADDRESS = "10.92.1.5"
_KINDS = {
    "tcp-1": ("Gbit/s", ["-P", "1"], 0.97),
    "tcp-8": ("Gbit/s", ["-P", "8"], 0.97),
    "udp-64B": ("kpackets/s", ["-u", "-b", "0", "-l", "64"], 0.95),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=12, help="runs of each kind over each path")
    parser.add_argument("--seconds", type=int, default=2, help="length of a run")


def run(options: argparse.Namespace) -> list[Ratio]:
    if shutil.which("iperf3") is None:
        raise BenchError("needs iperf3: apt-get install iperf3")
    ratios = []
    table = Table("kind", "unit", "ours", "bare", "CNI", "ours/bare", "ours/CNI", "per CPU/bare", "per CPU/CNI")
    with site.namespaces() as make:
        paths = {"ours": _ours(make), "bare": _by_hand(make, has_cni=False), "CNI": _by_hand(make, has_cni=True)}
        servers = [topology.pod_b.popen("iperf3", "-s", "-B", _ADDRESS) for topology in paths.values()]
        try:
            for kind, (unit, arguments, limit) in _KINDS.items():
                runs: dict[str, list[_Run]] = {name: [] for name in paths}
                ways = {name: _client(path, arguments, options.seconds, runs[name]) for name, path in paths.items()}
                samples = in_turn(options.rounds, ways)
                middle = (statistics.median(samples[name]) for name in paths)
                bare, cni = (_paired(runs["ours"], runs[name]) for name in ("bare", "CNI"))
                table.row(kind, unit, *middle, bare.figure, cni.figure, bare.per_cpu, cni.per_cpu)
                ratios.append(Ratio(f"throughput/{kind}", bare.figure, limit, at_least=True))
        finally:
            for server in servers:
                server.terminate()
                server.communicate()
            for path in paths.values():
                path.close()
    return ratios


class _Run(NamedTuple):
    """Gbit/s or thousands of packets a second that arrived; and the same per CPU that client and server used."""

    figure: float
    per_cpu: float


def _paired(ours: list[_Run], reference: list[_Run]) -> _Run:
    """Medians of the ratios of neighbouring runs."""
    pairs = list(zip(ours, reference, strict=True))
    figures = statistics.median(a.figure / b.figure for a, b in pairs)
    return _Run(figures, statistics.median(a.per_cpu / b.per_cpu for a, b in pairs))


def _ours(make: site.Spaces) -> site.Topology:
    made = site.Topology(make)
    made.a.reconcile()
    made.b.reconcile()
    return made


def _by_hand(make: site.Spaces, *, has_cni: bool) -> site.Topology:
    made = site.Topology(make)
    for node, own, peer in ((made.a, 1, 2), (made.b, 2, 1)):
        node.space.batch(f"""
            link add vx0 address 0e:00:00:00:00:0{own} mtu {1500 - VXLAN_OVERHEAD_V4} type vxlan id 42 dev eth0 \
local 10.90.{own}.2 dstport 4789 nolearning
            link set vx0 addrgenmode none
            link set vx0 up
            neigh add 10.9{peer}.1.0 lladdr 0e:00:00:00:00:0{peer} dev vx0 nud permanent
            route add 10.9{peer}.1.0/24 via 10.9{peer}.1.0 dev vx0 onlink""")
        fdb = f"fdb add 0e:00:00:00:00:0{peer} dev vx0 dst 10.90.{peer}.2 self permanent"
        node.space.run("bridge", *fdb.split())
        if has_cni:
            node.space.run("nft", f"insert rule inet cni post ip daddr 10.9{peer}.0.0/16 accept")
        else:
            node.space.run("nft", "delete table inet cni")
    return made


def _client(path: site.Topology, arguments: list[str], seconds: int, runs: list[_Run]) -> Callable[[], float]:
    def once() -> float:
        command = ["ip", "netns", "exec", path.pod_a.name, "iperf3", "-J", "-c", _ADDRESS, "-t", str(seconds)]
        deadline = time.monotonic() + 10
        while True:  # the server still listens, or still closes the run before
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
            found = json.loads(done.stdout or "{}")
            if not done.returncode and "error" not in found:
                runs.append(_run_of(found["end"]))
                return runs[-1].figure
            if time.monotonic() > deadline:
                raise BenchError(f"iperf3: {found.get('error') or done.stderr}")
            time.sleep(0.05)

    return once


def _run_of(end: dict[str, dict[str, float]]) -> _Run:
    whole, used = end.get("sum", {}), end["cpu_utilization_percent"]
    if "packets" in whole:
        figure = (whole["packets"] - whole["lost_packets"]) / whole["seconds"] / 1e3
    else:
        figure = end["sum_received"]["bits_per_second"] / 1e9
    return _Run(figure, 100 * figure / (used["host_total"] + used["remote_total"]))
