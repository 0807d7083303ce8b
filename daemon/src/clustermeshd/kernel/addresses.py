"""Tunnel addresses on ``lo``, and the list of all addresses of the node.

Our mark is the address protocol (IFA_PROTO, kernel 5.18), and what older kernels keep too: the label ``lo:mesh`` of an
IPv4 address, and of an IPv6 address its metric, which nothing is chosen by, since the prefix is the address alone.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Final

from clustermeshd.kernel.messages import address_family
from clustermeshd.kernel.netlink import REPLACE, Netlink, Request, attribute, attributes
from clustermeshd.kernel.state import HostAddress, Link, LocalAddress, Packed
from clustermeshd.model.addresses import parse_network
from clustermeshd.model.settings import Dataplane

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
_LOOPBACK: Final = "lo"
_LABEL: Final = b"lo:mesh"
_METRIC: Final = struct.pack("=I", 0x6D657368)  # "mesh"
_IFADDRMSG: Final = struct.Struct("=4BI")  # family, prefix length, flags, scope, device index
_IFA_F_NODAD: Final = 0x02  # else it is tentative for a moment even on lo, and no route may carry it as source
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_RT_PRIORITY, _IFA_PROTO = 1, 2, 3, 9, 11


def dump_addresses(
    netlink: Netlink, links: dict[str, Link], protocol: int
) -> tuple[tuple[LocalAddress, ...], dict[object, HostAddress]]:
    """All addresses of the node, and those on ``lo`` that carry our mark."""
    names = {link.index: link.name for link in links.values()}
    everything = []
    ours: dict[object, HostAddress] = {}
    for payload in netlink.dump(RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0)):
        address, index = read_address(payload)
        length, found = payload[1], attributes(payload, 8)
        link = names.get(index, "")
        everything.append(LocalAddress(address, length, link))
        is_marked = (
            found.get(_IFA_PROTO) == bytes((protocol,))
            or found.get(_IFA_LABEL, b"").rstrip(b"\0") == _LABEL
            or (len(address) == 16 and found.get(_IFA_RT_PRIORITY) == _METRIC)
        )
        if link == _LOOPBACK and is_marked and length == 8 * len(address):
            ours[address] = HostAddress(address)
    return tuple(everything), ours


def read_address(payload: bytes) -> tuple[Packed, int]:
    """Address and device index of an address message."""
    found = attributes(payload, 8)
    return found.get(_IFA_LOCAL) or found[_IFA_ADDRESS], _IFADDRMSG.unpack_from(payload)[4]


def may_be_chosen(address: Packed, settings: Dataplane) -> bool:
    """Whether settings may make that address the underlay's, on one interface or another."""
    if not (settings.underlay_interface or settings.underlay_cidr) or ip_address(address).is_link_local:
        return False
    networks = [parse_network(text.strip()) for text in settings.underlay_cidr.split(",")]
    return not settings.underlay_cidr or any(network and ip_address(address) in network for network in networks)


def put_address(address: HostAddress, index: int, protocol: int) -> Request:
    return Request(RTM_NEWADDR, REPLACE, _address(address, index, protocol))


def delete_address(address: HostAddress, index: int, protocol: int) -> Request:
    return Request(RTM_DELADDR, 0, _address(address, index, protocol))


def _address(value: HostAddress, index: int, protocol: int) -> bytes:
    packed = value.address
    body = attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed) + attribute(_IFA_PROTO, bytes((protocol,)))
    if len(packed) == 4:
        body += attribute(_IFA_LABEL, _LABEL + b"\0")
    else:
        body += attribute(_IFA_RT_PRIORITY, _METRIC)
    flags = 0 if len(packed) == 4 else _IFA_F_NODAD
    return _IFADDRMSG.pack(address_family(packed), 8 * len(packed), flags, 0, index) + body
