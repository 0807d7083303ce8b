"""Where the mesh stands on this node: underlay, device and tunnel address of each inner family."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import NamedTuple

from clustermeshd.kernel import nftables, nftsets
from clustermeshd.kernel.state import Device, KernelState, LocalAddress, Packed, address_text, family_of
from clustermeshd.kernel.sysctls import FORWARDING
from clustermeshd.model.addresses import parse_network, vtep_mac
from clustermeshd.model.settings import VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6, Dataplane
from clustermeshd.plan.overlay_claims import Problem, packed_mac
from clustermeshd.plan.overlay_local import LocalNode, of_family

_OVERHEAD = {4: VXLAN_OVERHEAD_V4, 6: VXLAN_OVERHEAD_V6}
_LEAST_IPV6_MTU = 1280


class Base(NamedTuple):
    """One inner family on this node: its device, and what every remote node's objects carry of it."""

    family: int
    device: Device
    underlay_family: int
    source: Packed | None  # tunnel address
    has_nexthops: bool
    reason: str  # why this underlay
    nodes_set: str  # name of the nftables set of its remote nodes' addresses

    @property
    def tunnel(self) -> nftables.Tunnel:
        return nftables.Tunnel(self.family, self.device.name, self.device.vni, self.device.mtu, self.source)


class _Underlay(NamedTuple):
    """Where tunnel packets of an inner family leave: a local address, its interface and that one's MTU."""

    interface: str
    address: Packed
    mtu: int
    reason: str


class Site:
    """This node as the plan sees it; what is wrong with it is appended to ``problems``."""

    def __init__(self, local: LocalNode, settings: Dataplane, actual: KernelState, problems: list[Problem]) -> None:
        self._local, self._settings, self._actual, self._problems = local, settings, actual, problems

    def base(self, family: int, members: int) -> Base | None:
        """Device and everything that hangs on it, where this node and some overlay peer have that family."""
        if not members or of_family(self._local.pod_cidrs, family) is None:
            return None
        name = self._settings.device_of(family)
        if name in self._actual.around.foreign_devices:
            message = "a device of this name is not ours; remove it or choose another name (setting device)"
            self._problem("ForeignDevice", name, message)
            return None
        if self._meets_foreign(family, name):
            return None
        underlay = self._underlay(family)
        if underlay is None:
            return None
        device = Device(
            name=name,
            vni=self._settings.vni_of(family),
            port=self._settings.port,
            lower=underlay.interface,
            local=underlay.address,
            mac=packed_mac(vtep_mac(self._local.cluster_id, self._local.name)),
            mtu=underlay.mtu - _OVERHEAD[family_of(underlay.address)],
        )
        self._check(family, device)
        source = self._local.tunnel_address(family)
        if source is None:
            self._problem("NoTunnelAddress", self._local.name, f"none for IPv{family}: its host traffic stays out")
        outer = family_of(underlay.address)
        return Base(
            family=family,
            device=device,
            underlay_family=outer,
            source=source.packed if source else None,
            has_nexthops=self._actual.around.has_nexthops,
            reason=underlay.reason,
            nodes_set=nftsets.nodes_set(outer),
        )

    def addresses(self, families: Collection[int]) -> list[Packed]:
        """Tunnel addresses that belong on ``lo``: those that no device of the node holds already."""
        wanted = [source.packed for source in self._local.tunnel_addresses if source.version in families]
        held = {entry.address for entry in self._actual.around.addresses}
        return [address for address in wanted if address in self._actual.marked.addresses or address not in held]

    def _underlay(self, family: int) -> _Underlay | None:
        """By InternalIP or by settings; while that is nowhere, what the device uses now: a flap removes nothing."""
        around = self._actual.around
        chosen = self._chosen(family) if self._is_overridden() else self._internal(family)
        if chosen is not None:
            entry, reason = chosen
            if not any(entry.address == address.packed for address in self._local.addresses):
                message = f"{address_text(entry.address)} is chosen here, but other clusters know this node by "
                message += f"{', '.join(map(str, self._local.addresses)) or 'no address'} (InternalIP)"
                self._problem("UnderlayNotInternalIP", entry.link, message)
            return _Underlay(entry.link, entry.address, around.links[entry.link].mtu, reason)
        current = self._actual.marked.devices.get(self._settings.device_of(family))
        if current is None or current.lower not in around.links:
            return None
        return _Underlay(current.lower, current.local, around.links[current.lower].mtu, "kept as it was")

    def _is_overridden(self) -> bool:
        return bool(self._settings.underlay_interface or self._settings.underlay_cidr)

    def _internal(self, family: int) -> tuple[LocalAddress, str] | None:
        address = of_family(self._local.addresses, family) or next(iter(self._local.addresses), None)
        if address is None:
            self._problem("NoNodeAddress", self._local.name, "the Node has no InternalIP")
            return None
        for entry in self._actual.around.addresses:
            if entry.address == address.packed and entry.link in self._actual.around.links:
                return entry, f"InternalIP {address} is on {entry.link}"
        self._problem("NoUnderlay", self._local.name, f"InternalIP {address} is on no interface of this node")
        return None

    def _chosen(self, family: int) -> tuple[LocalAddress, str] | None:
        """The best address that the settings allow: an InternalIP first, then of the inner family, then in order."""
        pattern, ranges = self._settings.underlay_interface, self._settings.underlay_cidr
        networks = [network for text in ranges.split(",") if (network := parse_network(text.strip())) is not None]
        internal = {address.packed for address in self._local.addresses}
        names = {self._settings.device_of(of) for of in (4, 6)}
        fitting = [
            entry
            for entry in self._actual.around.addresses
            if entry.link in self._actual.around.links
            and entry.link not in names | {"lo"}
            and not ip_address(entry.address).is_link_local
            and (not pattern or any(fnmatchcase(entry.link, part.strip()) for part in pattern.split(",")))
            and (not ranges or any(ip_address(entry.address) in network for network in networks))
        ]
        rule = " and ".join(
            text for text in (f"interface {pattern}" if pattern else "", f"cidr {ranges}" if ranges else "") if text
        )
        if not fitting:
            message = f"no address of this node fits {rule} (settings underlay_interface, underlay_cidr)"
            self._problem("NoUnderlay", self._local.name, message)
            return None
        best = min(fitting, key=lambda entry: (entry.address not in internal, family_of(entry.address) != family))
        return best, f"{rule} gives {address_text(best.address)} on {best.link}"

    def _check(self, family: int, device: Device) -> None:
        """What keeps packets from flowing and is not ours to change."""
        setting = FORWARDING[family]
        if self._actual.around.forwarding.get(family) is False:
            self._problem("ForwardingOff", setting, f"is 0: this node does not forward IPv{family}; set it to 1")
        if family == 6 and device.mtu < _LEAST_IPV6_MTU:
            message = (
                f"MTU {device.mtu} is below {_LEAST_IPV6_MTU}, the least that IPv6 takes; raise that of {device.lower}"
            )
            self._problem("MTUTooSmall", device.name, message)

    def _meets_foreign(self, family: int, name: str) -> bool:
        """Whether others hold a number of ours. Where our own objects already stand, they stay."""
        around, marked = self._actual.around, self._actual.marked
        vni, port, table = self._settings.vni_of(family), self._settings.port, self._settings.table
        rival = next((device for device in around.rival_vxlans if (device.vni, device.port) == (vni, port)), None)
        if rival is not None and name not in marked.devices:
            message = f"{rival.name} is not ours and has VNI {vni} on UDP port {port}"
            self._problem("ForeignVXLAN", name, f"{message}; remove it or choose others (settings vni, port)")
            return True
        if around.foreign_routes and not marked.rules:
            message = f"holds {len(around.foreign_routes)} routes that are not ours, and every packet would meet them"
            self._problem("ForeignTable", f"table {table}", f"{message}; choose another table (setting table)")
            return True
        if around.has_foreign_nft:
            message = "is not ours; remove it or choose another name (setting nft_table)"
            self._problem("ForeignNftTable", f"nftables table inet {self._settings.nft_table}", message)
            return True
        return False

    def _problem(self, reason: str, subject: str, message: str) -> None:
        self._problems.append(Problem(reason, subject, message))
