"""VXLAN devices: make, adopt, repair in place, remove; and the list of all links.

The device carries no address, ever: Calico's default detection would take it for the node's own (docs/decisions).
What the kernel can change in place (lower device, source address, MAC, MTU, up) is changed in place, because deleting
a device deletes its neighbours, FDB entries, nexthops and routes, and with them established connections.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import Final

from clustermeshd.kernel.netlink import CREATE, NESTED, Netlink, NetlinkError, Request, attribute, attributes
from clustermeshd.kernel.state import Device, Link

MARK: Final = b"clustermesh.io"  # interface alias: tells our device from one that only has its name

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
IFLA_IFNAME: Final = 3
_IFINFOMSG: Final = struct.Struct("=BxHiII")  # family, type, index, flags, change
_U32: Final = struct.Struct("=I")
_PORT: Final = struct.Struct("!H")

# linux/if_link.h
_ADDRESS, _MTU, _LINKINFO, _IFALIAS, _AF_SPEC = 1, 4, 18, 20, 26
_KIND, _DATA = 1, 2
_VX_ID, _VX_LINK, _VX_LOCAL, _VX_LEARNING, _VX_PORT, _VX_LOCAL6 = 1, 3, 4, 7, 15, 17
_AF_INET6, _ADDR_GEN_MODE, _GEN_NONE = 10, 8, 1
_IFF_UP: Final = 1


def dump_links(netlink: Netlink) -> tuple[dict[str, Link], dict[str, Device]]:
    """All links by name, and those of them that are VXLAN devices."""
    links, payloads = {}, {}
    for payload in netlink.dump(RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0)):
        link, found = _parse_link(payload)
        links[link.name] = link
        if link.kind == "vxlan":
            payloads[link.name] = found
    names = {link.index: link.name for link in links.values()}
    return links, {name: _parse_device(links[name], found, names) for name, found in payloads.items()}


def create_device(netlink: Netlink, device: Device, lower_index: int) -> None:
    """Make the device, then mark it and bring it up."""
    info = attribute(_KIND, b"vxlan\0") + attribute(_DATA | NESTED, _vxlan(device, lower_index, is_new=True))
    body = (
        attribute(IFLA_IFNAME, device.name.encode() + b"\0")
        + attribute(_ADDRESS, device.mac)
        + attribute(_MTU, _U32.pack(device.mtu))
        + attribute(_LINKINFO | NESTED, info)
    )
    netlink.request(Request(RTM_NEWLINK, CREATE, _IFINFOMSG.pack(0, 0, 0, 0, 0) + body))
    _settle(netlink, device)


def change_device(netlink: Netlink, device: Device, actual: Device, lower_index: int) -> None:
    """Turn ``actual`` into ``device`` in place."""
    if (device.lower, device.local, device.learns) != (actual.lower, actual.local, actual.learns):
        info = attribute(_KIND, b"vxlan\0") + attribute(_DATA | NESTED, _vxlan(device, lower_index, is_new=False))
        _set(netlink, device.name, attribute(_LINKINFO | NESTED, info))
    if device.mac != actual.mac:
        _set(netlink, device.name, attribute(_ADDRESS, device.mac))
    _settle(netlink, device)


def delete_device(netlink: Netlink, name: str) -> None:
    """Remove the device; nothing to do where it is gone."""
    body = attribute(IFLA_IFNAME, name.encode() + b"\0")
    try:
        netlink.request(Request(RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, 0, 0, 0) + body))
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def _settle(netlink: Netlink, device: Device) -> None:
    """MTU, mark, no IPv6 link-local address, up: all that a new link message does not take."""
    no_address = attribute(_AF_INET6 | NESTED, attribute(_ADDR_GEN_MODE, bytes((_GEN_NONE,))))
    _set(netlink, device.name, attribute(_IFALIAS, MARK) + attribute(_AF_SPEC | NESTED, no_address))
    try:
        _set(netlink, device.name, attribute(_MTU, _U32.pack(device.mtu)), _IFF_UP)
    except NetlinkError as error:
        if error.code != errno.EADDRINUSE:
            raise
        hint = f"a program of this node holds UDP port {device.port}; stop it or choose another port (setting port)"
        raise NetlinkError(error.code, f"{error}: {hint}") from error


def _set(netlink: Netlink, name: str, body: bytes, flags: int = 0) -> None:
    header = _IFINFOMSG.pack(0, 0, 0, flags, flags)
    netlink.request(Request(RTM_NEWLINK, 0, header + attribute(IFLA_IFNAME, name.encode() + b"\0") + body))


def _vxlan(device: Device, lower_index: int, *, is_new: bool) -> bytes:
    local = _VX_LOCAL if len(device.local) == 4 else _VX_LOCAL6
    data = (
        attribute(_VX_ID, _U32.pack(device.vni))
        + attribute(_VX_LINK, _U32.pack(lower_index))
        + attribute(local, device.local)
        + attribute(_VX_LEARNING, b"\0")
    )
    return data + attribute(_VX_PORT, _PORT.pack(device.port)) if is_new else data


def _parse_link(payload: bytes) -> tuple[Link, dict[int, bytes]]:
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(payload)
    found = attributes(payload, 16)
    info = attributes(found.get(_LINKINFO, b""))
    kind, name = _text(info.get(_KIND, b"")), _text(found[IFLA_IFNAME])
    return Link(index, name, _U32.unpack(found[_MTU])[0], kind, bool(flags & _IFF_UP)), found


def _text(value: bytes) -> str:
    """The kernel takes nearly any bytes for a name; others read what we make of it in a log, a status or an error."""
    return value.rstrip(b"\0").decode(errors="backslashreplace")


def _parse_device(link: Link, found: dict[int, bytes], names: Mapping[int, str]) -> Device:
    data = attributes(attributes(found[_LINKINFO]).get(_DATA, b""))
    lower = _U32.unpack(data.get(_VX_LINK, b"\0" * 4))[0]
    return Device(
        name=link.name,
        vni=_U32.unpack(data.get(_VX_ID, b"\0" * 4))[0],
        port=_PORT.unpack(data.get(_VX_PORT, b"\0\0"))[0],
        lower=names.get(lower, ""),
        local=data.get(_VX_LOCAL) or data.get(_VX_LOCAL6) or b"\0" * 4,
        mac=found.get(_ADDRESS, b""),
        mtu=link.mtu,
        is_up=link.is_up,
        is_marked=found.get(_IFALIAS, b"").rstrip(b"\0") == MARK,
        learns=data.get(_VX_LEARNING, b"\0") != b"\0",
    )
