"""The same kernel objects by ``ip -batch``, ``bridge -batch`` and ``nft -f``: files are written before time runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clustermeshd.kernel.state import Marked, address_text, mac_text
from clustermeshd.model.settings import Dataplane

from bench.site import Namespace, feed

SETTINGS = Dataplane()
_TABLE = SETTINGS.table


class Objects:
    """Everything that ``marked`` holds, as input of the three programs."""

    def __init__(self, directory: Path, marked: Marked, nft: str) -> None:
        """``nft`` is what ``nft list table`` prints."""
        self._ip, self._bridge, self._nft = (directory / name for name in ("ip", "bridge", "nft"))
        _write(self._ip, [*_devices(marked), *_entries(marked), *_routes(marked)])
        _write(self._bridge, _fdb(marked))
        self._nft.write_text(nft)

    def write(self, space: Namespace) -> None:
        """Program them in our own order: nftables before routes."""
        feed(space, "nft", "-f", "-", text=self._nft)
        feed(space, "ip", "-batch", "-", text=self._ip)
        feed(space, "bridge", "-batch", "-", text=self._bridge)


class OnlinkRoutes:
    """One on-link gateway route, neighbour and FDB entry per remote node, as flannel-like agents program them."""

    def __init__(self, directory: Path, marked: Marked) -> None:
        self._ip, self._bridge = directory / "onlink-ip", directory / "onlink-bridge"
        devices, neighbours = _devices(marked), list(marked.neighbours.values())
        gateways = {nexthop.id: address_text(nexthop.gateway) for nexthop in marked.nexthops.values()}
        routes = (
            f"route add {address_text(route.prefix)}/{route.length} via {gateways[route.nexthop]} "
            f"dev {SETTINGS.device} onlink proto {SETTINGS.route_protocol} table {_TABLE}"
            for route in marked.routes.values()
        )
        entries = (
            f"neigh add {address_text(value.address)} lladdr {mac_text(value.mac)} dev {value.device} nud permanent"
            for value in neighbours
        )
        _write(self._ip, [*devices, *entries, *routes])
        _write(self._bridge, _fdb(marked))

    def write(self, space: Namespace) -> None:
        feed(space, "ip", "-batch", "-", text=self._ip)
        feed(space, "bridge", "-batch", "-", text=self._bridge)


def dump(space: Namespace) -> dict[str, Sequence[str]]:
    """What stands in the kernel of our objects, in a form that two namespaces can be compared by."""
    device, table = SETTINGS.device, str(_TABLE)
    neighbours = space.ip_json("neigh", "show", "dev", device, "nud", "permanent")
    fdb = space.bridge_json("fdb", "show", "dev", device)
    return {
        "nexthops": sorted(str(_plain(entry)) for entry in space.ip_json("nexthop")),
        "routes": sorted(str(_plain(entry)) for entry in space.ip_json("route", "show", "table", table)),
        "neighbours": sorted(f"{entry['dst']} {entry['lladdr']}" for entry in neighbours),
        "fdb": sorted(f"{entry['mac']} {entry.get('dst')}" for entry in fdb),
        "rules": space.run("ip", "rule"),
        "addresses": [part["local"] for part in space.ip_json("addr", "show", "lo")[0]["addr_info"]],
        "nft": space.run("nft", "-s", "list", "table", "inet", SETTINGS.nft_table),
    }


def _plain(entry: dict[str, object]) -> list[tuple[str, object]]:
    return sorted((key, str(value)) for key, value in entry.items() if key != "flags")


def _devices(marked: Marked) -> list[str]:
    lines = []
    for device in marked.devices.values():
        kind = f"vxlan id {device.vni} dev {device.lower} local {address_text(device.local)} dstport {device.port}"
        lines += [
            f"link add {device.name} address {mac_text(device.mac)} mtu {device.mtu} type {kind} nolearning",
            f"link set {device.name} addrgenmode none",
            f"link set {device.name} up",
        ]
    lines += (f"addr add {address_text(value.address)}/32 dev lo" for value in marked.addresses.values())
    lines += (
        f"rule add pref {rule.priority} table {rule.table} protocol {SETTINGS.route_protocol}"
        for rule in marked.rules.values()
    )
    return lines


def _entries(marked: Marked) -> Iterable[str]:
    protocol = SETTINGS.route_protocol
    for hop in marked.nexthops.values():
        yield f"nexthop add id {hop.id} via {address_text(hop.gateway)} dev {hop.device} onlink protocol {protocol}"
    for value in marked.neighbours.values():
        yield (
            f"neigh add {address_text(value.address)} lladdr {mac_text(value.mac)} dev {value.device} nud permanent "
            f"protocol {protocol}"
        )


def _fdb(marked: Marked) -> Iterable[str]:
    for value in marked.fdb.values():
        to = address_text(value.destination)
        yield f"fdb add {mac_text(value.mac)} dev {value.device} dst {to} self permanent"


def _routes(marked: Marked) -> Iterable[str]:
    for route in marked.routes.values():
        source = f" src {address_text(route.source)}" if route.source else ""
        yield (
            f"route add {address_text(route.prefix)}/{route.length} nhid {route.nexthop} "
            f"proto {SETTINGS.route_protocol} table {_TABLE}{source} mtu lock {route.mtu}"
        )


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n")
