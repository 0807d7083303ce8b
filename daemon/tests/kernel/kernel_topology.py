"""Real network namespaces: two routed nodes, each with a pod, joined by a router.

                  router (forwards)
    10.90.1.0/24 /                 \\ 10.90.2.0/24
            node a                  node b
              | veth                  | veth
            pod a 10.91.1.5         pod b 10.92.1.5
            fd91:1::5               fd92:1::5

Both nodes masquerade what their pods send out of the cluster, as every CNI does.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from clustermeshd.kernel.dataplane import Kernel
from clustermeshd.kernel.state import KernelState, Marked, Report
from clustermeshd.kube.objects import Metadata, RemoteNode, RemoteNodeSpec
from clustermeshd.model.addresses import parse_address, parse_network, tunnel_address, vtep_mac
from clustermeshd.model.settings import Dataplane
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay import Desired, desired
from clustermeshd.plan.overlay_local import LocalNode

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


class Namespace:
    """A network namespace that dies with the test."""

    def __init__(self, name: str) -> None:
        self.name = f"cmk{os.getpid()}-{next(_numbers)}{name}"
        self._run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        self.sysctl("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")  # no second of silence

    def close(self) -> None:
        inode = Path(f"/run/netns/{self.name}").stat().st_ino
        left = [process.name for process in Path("/proc").glob("[0-9]*") if _namespace_of(process) == inode]
        assert not left, f"processes left in {self.name}: {left}"
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def ip(self, *arguments: str) -> str:
        return self._run("ip", "-n", self.name, *arguments)

    def ip_json(self, *arguments: str) -> list[dict]:
        return json.loads(self._run("ip", "-n", self.name, "-j", "-d", *arguments) or "[]")

    def bridge_json(self, *arguments: str) -> list[dict]:
        return json.loads(self._run("bridge", "-n", self.name, "-j", *arguments) or "[]")

    def batch(self, commands: str) -> None:
        """``ip`` commands, one a line, by one process."""
        for family in ("", "-6"):
            lines = [
                line.strip() for line in commands.strip().splitlines() if line.strip().startswith("-6") == bool(family)
            ]
            text = "\n".join(line.removeprefix("-6 ") for line in lines)
            if not text.strip():
                continue
            command = ["ip", "-n", self.name, *filter(None, [family]), "-batch", "-"]
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
            assert not done.returncode, f"{text}: {done.stderr}"

    def run(self, *arguments: str, check: bool = True) -> str:
        return self._run("ip", "netns", "exec", self.name, *arguments, check=check)

    def try_run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", self.name, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def sysctl(self, *settings: str) -> None:
        self.run("sysctl", "-qw", *settings)

    def popen(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in a thread that has joined the namespace; sockets it opens stay there."""
        outcome: list = []

        def inside() -> None:
            try:
                with Path(f"/run/netns/{self.name}").open() as handle:
                    assert ctypes.CDLL(None).setns(handle.fileno(), _CLONE_NEWNET) == 0
                outcome.append((function(), None))
            except BaseException as error:  # noqa: BLE001  # handed to the caller
                outcome.append((None, error))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def dump(self) -> dict[str, str]:
        """Everything the kernel would tell a curious neighbour, without counters and ages."""
        commands = {
            "links": ["ip", "-d", "link"],
            "addresses": ["ip", "-o", "addr"],
            "routes4": ["ip", "-4", "-d", "route", "show", "table", "all"],
            "routes6": ["ip", "-6", "-d", "route", "show", "table", "all"],
            "rules4": ["ip", "-4", "-d", "rule"],
            "rules6": ["ip", "-6", "-d", "rule"],
            "neighbours": ["ip", "neigh", "show", "nud", "permanent"],
            "fdb": ["bridge", "fdb"],
            "nexthops": ["ip", "-d", "nexthop"],
            "nft": ["nft", "-s", "list", "ruleset"],
            "sysctl": ["sysctl", "-a", "--pattern", r"^net\.ipv[46]\.(ip_forward|conf\.(all|default|lo|eth0))"],
        }
        return {name: self.run(*command) for name, command in commands.items()}

    @staticmethod
    def _run(*arguments: str, check: bool = True) -> str:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)}: {done.stderr}")
        return done.stdout


def _namespace_of(process: Path) -> int:
    try:
        return (process / "ns/net").stat().st_ino
    except OSError:  # it has ended
        return 0


class MeshNode:
    """A node under test: its namespace, its kernel, and its facts as this and the other cluster know them."""

    def __init__(self, space: Namespace, cluster: str, addresses: list[str], pod_cidrs: list[str]) -> None:
        self.space, self.cluster, self.name = space, cluster, "node1"  # equal node names on purpose
        self.addresses, self.pod_cidrs = addresses, pod_cidrs
        self.settings = Dataplane()
        self.kernel: Kernel = space.call(lambda: Kernel(self.settings))
        self.remotes: list[RemoteNode] = []

    @property
    def local(self) -> LocalNode:
        cidrs = tuple(parse_network(text) for text in self.pod_cidrs)
        tunnels = tuple(tunnel_address(cidr) for cidr in cidrs)
        return LocalNode(self.name, self.cluster, tuple(map(parse_address, self.addresses)), cidrs, tunnels)

    def as_remote(self, overlay: str = "Enabled") -> RemoteNode:
        spec = RemoteNodeSpec(
            cluster_id=self.cluster,
            cluster_name=self.cluster,
            node_name=self.name,
            overlay_routing_mode=overlay,
            addresses=tuple(self.addresses),
            pod_cidrs=tuple(self.pod_cidrs),
            tunnel_addresses=tuple(cidr.partition("/")[0] for cidr in self.pod_cidrs),
            vtep_mac=vtep_mac(self.cluster, self.name),
        )
        return RemoteNode(metadata=Metadata(name=f"{self.cluster}.{self.name}"), spec=spec)

    def observe(self) -> KernelState:
        return self.space.call(self.kernel.observe)  # sysctls are those of the calling thread's namespace

    def plan(self) -> tuple[Desired, KernelState]:
        actual = self.observe()
        return desired(self.local, self.remotes, self.settings, actual), actual

    def reconcile(self) -> Report:
        """One round of the agent; every object must take."""
        wanted, actual = self.plan()
        report = self.kernel.apply(diff(wanted.marked, actual.marked))
        assert not report.failures, report.failures
        return report

    def uninstall(self) -> None:
        report = self.kernel.apply(diff(Marked(), self.observe().marked))
        assert not report.failures, report.failures


class Topology:
    """See the picture above."""

    def __init__(self, make: Callable[[str], Namespace], underlay: str = "dual") -> None:
        self.router = make("r")
        self.router.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.a, self.pod_a = self.node(make, 1, underlay)
        self.b, self.pod_b = self.node(make, 2, underlay)
        self.a.remotes, self.b.remotes = [self.b.as_remote()], [self.a.as_remote()]

    def node(self, make: Callable[[str], Namespace], n: int, underlay: str = "dual") -> tuple[MeshNode, Namespace]:
        """One more node with a pod, behind the router, in a cluster of its own; ``n`` stands in all its addresses."""
        node, pod = make(f"n{n}"), make(f"p{n}")
        node.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=1")
        node.batch(f"""
            link add eth0 type veth peer name to{n} netns {self.router.name}
            link add pod0 type veth peer name eth0 netns {pod.name}
            link set eth0 up
            link set pod0 up
            addr add 169.254.1.1/32 dev pod0
            route add 10.9{n}.1.5 dev pod0
            addr add fe80::1/64 dev pod0 nodad
            -6 route add fd9{n}:1::5 dev pod0""")
        self.router.ip("link", "set", f"to{n}", "up")
        pod.batch(f"""
            link set eth0 up
            addr add 10.9{n}.1.5/32 dev eth0
            route add 169.254.1.1 dev eth0
            route add default via 169.254.1.1
            addr add fd9{n}:1::5/128 dev eth0 nodad
            -6 route add default via fe80::1 dev eth0""")
        addresses = []
        if underlay in ("dual", "v4"):
            addresses.append(f"10.90.{n}.2")
            self.router.ip("addr", "add", f"10.90.{n}.1/24", "dev", f"to{n}")
            node.batch(f"addr add 10.90.{n}.2/24 dev eth0\nroute add default via 10.90.{n}.1")
        if underlay in ("dual", "v6"):
            addresses.append(f"fd90:{n}::2")
            self.router.ip("addr", "add", f"fd90:{n}::1/64", "dev", f"to{n}", "nodad")
            node.batch(f"addr add fd90:{n}::2/64 dev eth0 nodad\n-6 route add default via fd90:{n}::1")
        masquerade = f"""table inet cni {{ chain post {{ type nat hook postrouting priority srcnat;
            ip saddr 10.9{n}.1.0/24 ip daddr != 10.9{n}.0.0/16 masquerade;
            ip6 saddr fd9{n}:1::/64 ip6 daddr != fd9{n}::/16 masquerade;
            }}
            }}"""
        node.run("nft", masquerade)
        return MeshNode(node, f"cluster-{n}", addresses, [f"10.9{n}.1.0/24", f"fd9{n}:1::/64"]), pod

    def close(self) -> None:
        self.a.kernel.close()
        self.b.kernel.close()
