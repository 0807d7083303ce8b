"""The networks of a lab: one subnet per cluster, a router between them, one link to the machine.

                          machine (root namespace)
                                  | cmlN              routes to the node subnets, no forwarding
    +--------------------- router namespace --------------------+
    |        c1 (bridge, .1)                 c2 (bridge, .1)    |     outer packets of a mesh are really routed
    +---c1cp----c1n1----c1n2----------c2cp----c2n1----c2n2------+
         |       |       |             |       |       |
      control   node    node        control   node    node            each a namespace with one eth0
       plane .2  .11     .12         plane

Namespaces are bound to files of the lab, not to /run/netns: `ip netns add` turns that directory into a mount that
nobody takes away again. A link there lets `ip netns exec` find them by name.
"""

from __future__ import annotations

import ipaddress
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .command import attempt, run

if TYPE_CHECKING:
    from .state import Store
    from .topology import Cluster, Network

NETNS_NAMES = Path("/run/netns")
MTU = 1500
FIRST_NODE = 10
FORWARD_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_dad": "0",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace on a cluster's subnet: a node or the control plane."""

    label: str  # east, east.n1
    port: str  # its end in the router namespace
    addresses: tuple[str, ...]


def control_plane_place(cluster: Cluster, index: int) -> Place:
    """Where a cluster's control plane lives: address .2 (::2)."""
    addresses = tuple(str(s[2]) for s in cluster.subnets(index))
    return Place(cluster.name, f"c{cluster.index}cp", addresses)


def node_place(cluster: Cluster, node: str, index: int) -> Place:
    """Where a node lives: .11 (::11), .12 (::12), ... in the order of the topology."""
    number = cluster.nodes.index(node) + 1
    addresses = tuple(_host(s, FIRST_NODE + number) for s in cluster.subnets(index))
    return Place(f"{cluster.name}.{node}", f"c{cluster.index}n{number}", addresses)


def _host(subnet: Network, number: int) -> str:
    """Host address of a number; in IPv6 its digits read the same."""
    return str(subnet[int(str(number), 16) if subnet.version == 6 else number])


class LabNetwork:
    """Makes and removes the namespaces and links of one lab."""

    def __init__(self, store: Store, index: int) -> None:
        self._store = store
        self.uplink = f"cml{index}"
        self.router = store.netns / "router"
        self._index = index
        self._link4 = ipaddress.ip_network(f"10.{128 + index}.255.0/30")
        self._link6 = ipaddress.ip_network(f"fd00:{128 + index:x}:ff::/126")

    def path(self, label: str) -> Path:
        """The file that holds a namespace."""
        return self._store.netns / label

    def name(self, label: str) -> str:
        """What `ip netns exec` calls it."""
        return self.uplink if label == "router" else f"{self.uplink}.{label}"

    def create_router(self, clusters: tuple[Cluster, ...]) -> None:
        """The router namespace with a bridge per cluster, and the machine's way in."""
        self.add_namespace("router")
        set_sysctls(self.router, FORWARD_SYSCTLS)
        lines = ["link set lo up"]
        for cluster in clusters:
            bridge = f"c{cluster.index}"
            # Its own address, or it takes over that of a port, and with the port (a node's power) goes the gateway.
            mac = f"0e:00:00:00:{self._index:02x}:{cluster.index:02x}"
            lines += [f"link add {bridge} address {mac} type bridge", f"link set {bridge} mtu {MTU} up"]
            lines += [_address(s[1], s, bridge) for s in cluster.subnets(self._index)]
        ip(self.router, *lines)
        inner, outer = (2, 1)
        has_ipv6 = any("ipv6" in c.families for c in clusters)
        links = [self._link4, *([self._link6] if has_ipv6 else [])]
        ip(
            None,
            f"link add {self.uplink} mtu {MTU} type veth peer name machine netns {self.router}",
            *(_address(n[outer], n, self.uplink) for n in links),
            f"link set {self.uplink} up",
        )
        ip(
            self.router,
            *(_address(n[inner], n, "machine") for n in links),
            "link set machine up",
        )
        ip(None, *(self._route(s) for c in clusters for s in c.subnets(self._index)))

    def attach(self, cluster: Cluster, place: Place) -> Path:
        """A namespace with one eth0 on the cluster's subnet."""
        path = self.add_namespace(place.label)
        subnets = cluster.subnets(self._index)
        set_sysctls(path, {k: v for k, v in FORWARD_SYSCTLS.items() if "accept_dad" in k})
        ip(
            self.router,
            f"link add {place.port} mtu {MTU} type veth peer name eth0 netns {path}",
            f"link set {place.port} master c{cluster.index} up",
        )
        ip(
            path,
            "link set lo up",
            *(_address(a, s, "eth0") for a, s in zip(place.addresses, subnets, strict=True)),
            "link set eth0 up",
            *(f"route add default via {s[1]}" for s in subnets),
        )
        return path

    def detach(self, place: Place) -> None:
        """Remove a place's link and namespace."""
        attempt("ip", "link", "del", place.port, netns=self.router)
        self.remove_namespace(place.label)

    def add_namespace(self, label: str) -> Path:
        """A named network namespace."""
        path = self.path(label)
        path.touch()
        run("unshare", f"--net={path}", "true")
        NETNS_NAMES.mkdir(parents=True, exist_ok=True)
        link = NETNS_NAMES / self.name(label)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        return path

    def remove_namespace(self, label: str) -> None:
        """Let go of a namespace; it ends with the last process in it."""
        path = self.path(label)
        if path.is_mount() or path.exists():
            attempt("umount", "-l", path)
            path.unlink(missing_ok=True)
        (NETNS_NAMES / self.name(label)).unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Everything, whatever is left of it."""
        attempt("ip", "link", "del", self.uplink)
        if self._store.netns.is_dir():
            for path in self._store.netns.iterdir():
                self.remove_namespace(path.name)
        with suppress(OSError):
            NETNS_NAMES.rmdir()  # ours unless somebody else has namespaces there

    def _route(self, subnet: Network) -> str:
        link = self._link4 if subnet.version == 4 else self._link6
        return f"route replace {subnet} via {link[2]} dev {self.uplink}"


def ip(netns: Path | None, *lines: str) -> None:
    """Many `ip` commands with one start of it."""
    if lines:
        run("ip", "-batch", "-", netns=netns, stdin="\n".join(lines) + "\n")


def set_sysctls(netns: Path, values: dict[str, str]) -> None:
    """Settings below /proc/sys/net of a namespace."""
    lines = [f"[ ! -e /proc/sys/{name} ] || echo {value} > /proc/sys/{name}" for name, value in values.items()]
    run("sh", "-ec", "\n".join(lines), netns=netns)


def indexes_in_use_by_routes() -> set[int]:
    """Lab numbers whose 10.(128+N).0.0/16 this machine already routes somewhere."""
    used = set()
    for route in json.loads(run("ip", "-j", "-4", "route", "show") or "[]"):
        if route["dst"] == "default":
            continue
        network = ipaddress.IPv4Network(route["dst"], strict=False)
        for index in range(100):
            if network.overlaps(ipaddress.IPv4Network(f"10.{128 + index}.0.0/16")):
                used.add(index)
    return used


def _address(address: object, subnet: Network, device: str) -> str:
    nodad = " nodad" if subnet.version == 6 else ""
    return f"addr add {address}/{subnet.prefixlen} dev {device}{nodad}"
