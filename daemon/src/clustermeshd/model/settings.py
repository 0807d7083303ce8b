"""The numbers and names by which the data plane marks its kernel objects, each one setting with one default.

The defaults stay clear of Calico, flannel and Cilium: own VNI and UDP port (a second VXLAN device with the same VNI
and port is refused by the kernel, and Felix drops foreign packets on its port), a table outside 1-250 and 253-255, a
rule priority below WireGuard's 99, a route protocol that no routing daemon claims.
Every cluster of a mesh must use the same VNI and port; the rest is local to a node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from clustermeshd.model.addresses import parse_network
from clustermeshd.model.errors import Refused

VXLAN_OVERHEAD_V4: Final = (
    50  # bytes: outer Ethernet payload 20 (IPv4) + 8 UDP + 8 VXLAN + 14 inner Ethernet (RFC 7348)
)
VXLAN_OVERHEAD_V6: Final = 70  # the same with 40 bytes of IPv6
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_KERNEL_TABLES: Final = {253: "default", 254: "main", 255: "local"}
_LAST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Dataplane:
    """Marks of the kernel objects of one node.

    ``device`` names the VXLAN device of inner IPv4; the one of inner IPv6 has the suffix ``v6`` and ``vni + 1``
    (two devices of one VNI cannot share a socket). ``route_protocol`` is 5..255, see ``rtm_protocol`` in rtnetlink(7).
    ``use_nexthops``: by nexthop objects where the kernel has them; else, or without, each route has its own gateway.
    ``probe_port``: what remote nodes may reach on the tunnel address, see ``Probing``; 0 for nothing.
    Tunnel packets leave from the node's InternalIP, unless ``underlay_interface`` (name patterns as of a shell) or
    ``underlay_cidr`` (prefixes), each a comma-separated list, choose another address of the node.
    """

    device: str = "clustermesh0"
    vni: int = 4097
    port: int = 4790
    table: int = 4097
    rule_priority: int = 98
    route_protocol: int = 77
    nft_table: str = "clustermesh"
    probe_port: int = 9473
    use_nexthops: bool = True
    underlay_interface: str = ""
    underlay_cidr: str = ""

    def device_of(self, family: int) -> str:
        """Name of the device of an inner address family (4 or 6)."""
        return self.device if family == 4 else f"{self.device}v6"

    def vni_of(self, family: int) -> int:
        """VNI of the device of an inner address family (4 or 6)."""
        return self.vni if family == 4 else self.vni + 1

    def check(self) -> None:
        """Refused: a value that the kernel does not take, or that is the kernel's own."""
        _check_name("--device", self.device, 13, "no name has more than 15, and that of IPv6 ends in v6")
        _check_name("--nft-table", self.nft_table, 255, "")
        _check_range("--vni", self.vni, 1, (1 << 24) - 2, "24 bits, and that of IPv6 is one more")
        _check_range("--port", self.port, 1, _LAST_PORT)
        _check_range("--table", self.table, 1, (1 << 32) - 1)
        if self.table in _KERNEL_TABLES:
            found = f"{self.table} is the kernel's own table {_KERNEL_TABLES[self.table]}"
            raise Refused("BadSetting", found, where="--table", fix="choose one that nobody uses, but 253 to 255")
        _check_range("--rule-priority", self.rule_priority, 1, 32765, "the rule to table main has 32766")
        _check_range("--route-protocol", self.route_protocol, 5, 255, "0 to 4 are the kernel's own")
        for text in filter(None, (text.strip() for text in self.underlay_cidr.split(","))):
            if parse_network(text) is None:
                raise Refused(
                    "BadSetting", f"{text!r} is no prefix", where="--underlay-cidr", fix="write it as 10.8.0.0/16"
                )


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of the health and metrics endpoints (both daemons may share a host)."""

    controller: int = 9471
    agent: int = 9472


PORTS: Final = Ports()


@dataclass(frozen=True, slots=True)
class Probing:
    """How paths to remote nodes are probed. A round costs two packets of each sampled node and family each way.

    ``port`` is alike in the whole mesh; ``sample`` 0 switches probing off, answering included.
    """

    port: int = Dataplane().probe_port
    interval_s: float = 10.0
    timeout_s: float = 1.0
    sample: int = 16

    def check(self) -> None:
        """Refused: a value that no probe can be sent with."""
        _check_range("--probe-port", self.port, 1, _LAST_PORT)
        _check_range("--probe-interval", self.interval_s, 0.1, 86400)
        _check_range("--probe-timeout", self.timeout_s, 0.001, 3600)
        _check_range("--probe-sample", self.sample, 0, 1_000_000)


def _check_range(flag: str, value: float, least: float, most: float, why: str = "") -> None:
    if not least <= value <= most:
        fix = f"choose {least} to {most}" + (f" ({why})" if why else "")
        raise Refused("BadSetting", f"{value} is out of range", where=flag, fix=fix)


def _check_name(flag: str, value: str, most: int, why: str) -> None:
    if not _NAME.fullmatch(value) or len(value) > most:
        fix = f"choose 1 to {most} letters, digits or any of _ . -" + (f" ({why})" if why else "")
        raise Refused("BadSetting", f"{value!r} is no name for it", where=flag, fix=fix)
