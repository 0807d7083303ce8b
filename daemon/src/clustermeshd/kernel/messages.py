"""Messages of the four bulk kinds: nexthops, FDB entries, neighbours, routes. Values in, bytes out, and back.

A route by nexthop object and not by gateway: IPv4 hashes routes by output device, so ten thousand routes with their
own gateway on one VXLAN device fall into one hash chain and programming them is quadratic. A route by nexthop id
hashes by that id: linear, and a node that moves is one replace, however many prefixes point to it.

Numbers are those of linux/rtnetlink.h, linux/neighbour.h and linux/nexthop.h.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from clustermeshd.kernel.layout import Reader
from clustermeshd.kernel.netlink import NESTED, REPLACE, Request, attribute
from clustermeshd.kernel.state import FdbEntry, Neighbour, Nexthop, Packed, Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

AF_BRIDGE: Final = 7
_U32: Final = struct.Struct("=I")
_RTMSG: Final = struct.Struct("=8BI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_NDMSG: Final = struct.Struct("=BBHiHBB")  # family, padding, padding, device index, state, flags, type
_NHMSG: Final = struct.Struct("=4BI")  # family, scope, protocol, reserved, flags

_AF: Final[dict[int, int]] = {4: socket.AF_INET, 16: socket.AF_INET6}  # by size of an address
# Whole messages, each attribute as length, type, value and padding, by size of an address:
_PUT_NEXTHOP: Final = {size: struct.Struct(f"=4BI HHI HHI HH{size}s") for size in _AF}
_NEIGHBOUR: Final = {size: struct.Struct(f"=BBHiHBB HH{size}s HH6s2x HHB3x") for size in _AF}
_FDB: Final = {size: struct.Struct(f"=BBHiHBB HH6s2x HH{size}s") for size in _AF}
_PUT_ROUTE: Final = {size: struct.Struct(f"=8BI HHI HH{size}s HHI") for size in _AF}

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 4, 5, 6, 7, 8
_RTA_CACHEINFO, _RTA_TABLE, _RTA_NH_ID, _RTAX_MTU = 12, 15, 30, 2
_ROUTE_PATHS: Final = (
    (_RTA_TABLE,),
    (_RTA_DST,),
    (_RTA_NH_ID,),
    (_RTA_PREFSRC,),
    (_RTA_METRICS, _RTAX_MTU),
    (_RTA_PRIORITY,),
    (_RTA_GATEWAY,),
    (_RTA_OIF,),
)
_DEFAULT_METRIC: Final[dict[int, int]] = {socket.AF_INET: 0, socket.AF_INET6: 1024}
_NDA_DST, _NDA_LLADDR, _NDA_CACHEINFO, _NDA_PROBES, _NDA_IFINDEX, _NDA_PROTOCOL = 1, 2, 3, 4, 8, 12
_AGES: Final = ((_NDA_CACHEINFO,), (_NDA_PROBES,))
_INDEX_STATE: Final = struct.Struct("=iH")
_MAC_BYTES: Final = 6
_NHA_ID, _NHA_OIF, _NHA_GATEWAY = 1, 5, 6
NUD_PERMANENT, _NTF_SELF = 0x80, 0x02
_RTN_UNICAST, _RTNH_F_ONLINK, _RTM_F_CLONED, _RT_SCOPE_NOWHERE = 1, 4, 0x200, 255
_RT_TABLE_UNSPEC, _RT_TABLE_COMPAT = 0, 252
FIRST_NEXTHOP: Final = 1 << 30  # our nexthop ids start here, far above what routing daemons count up to
LAST_RESERVED: Final = 4  # protocols up to this one are the kernel's, or those of people (RTPROT_STATIC)


def address_family(address: Packed) -> int:
    """AF_INET or AF_INET6 of a packed address."""
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


class RouteMark(NamedTuple):
    """What makes a route ours: both of these."""

    table: int
    protocol: int


# ---- nexthops


def put_nexthop(nexthop: Nexthop, index: int, protocol: int) -> Request:
    gateway = nexthop.gateway
    size = len(gateway)
    body = _PUT_NEXTHOP[size].pack(
        _AF[size],
        0,
        protocol,
        0,
        _RTNH_F_ONLINK,
        8,
        _NHA_ID,
        nexthop.id,
        8,
        _NHA_OIF,
        index,
        4 + size,
        _NHA_GATEWAY,
        gateway,
    )
    return Request(RTM_NEWNEXTHOP, REPLACE, body)


def delete_nexthop(nexthop: Nexthop) -> Request:
    return Request(RTM_DELNEXTHOP, 0, _NHMSG.pack(0, 0, 0, 0, 0) + attribute(_NHA_ID, _U32.pack(nexthop.id)))


DUMP_NEXTHOPS: Final = _NHMSG.pack(0, 0, 0, 0, 0)


def nexthops(payloads: Sequence[bytes], names: Mapping[int, str]) -> Iterator[tuple[int, Nexthop]]:
    """Protocol and nexthop of dumped objects; without device or gateway (groups, blackholes) those are empty."""
    found = Reader(8, [(_NHA_ID,), (_NHA_OIF,), (_NHA_GATEWAY,)], spans=[(2, 1)]).read(payloads)
    for protocol, number, oif, gateway in found:
        device = names.get(_number(oif), "") if oif else ""
        yield _number(protocol), Nexthop(_number(number), device, gateway or b"")


# ---- neighbours and FDB entries: one message type, told apart by family


def put_neighbour(neighbour: Neighbour, index: int, protocol: int) -> Request:
    return Request(RTM_NEWNEIGH, REPLACE, _neighbour(neighbour, index, protocol))


def delete_neighbour(neighbour: Neighbour, index: int, protocol: int) -> Request:
    return Request(RTM_DELNEIGH, 0, _neighbour(neighbour, index, protocol))


def put_fdb(entry: FdbEntry, index: int) -> Request:
    return Request(RTM_NEWNEIGH, REPLACE, _fdb(entry, index))


def delete_fdb(entry: FdbEntry, index: int) -> Request:
    return Request(RTM_DELNEIGH, 0, _fdb(entry, index))


def dump_neighbours(family: int, index: int) -> bytes:
    """Payload of a dump of one device's neighbours (AF_INET, AF_INET6) or FDB entries (AF_BRIDGE)."""
    return _NDMSG.pack(family, 0, 0, 0, 0, 0, 0) + attribute(_NDA_IFINDEX, _U32.pack(index))


def dump_fdb(index: int) -> bytes:
    return dump_neighbours(AF_BRIDGE, index)


_NEIGHBOURS: Final = Reader(12, [(_NDA_DST,), (_NDA_LLADDR,), (_NDA_PROTOCOL,)], spans=[(4, 6)], ignored=_AGES)


def without_ages(payloads: Sequence[bytes]) -> Iterable[bytes]:
    """What neighbours and FDB entries say, without when they were used."""
    return _NEIGHBOURS.steady(payloads)


def neighbours(payloads: Sequence[bytes], device: str, index: int, protocol: int) -> Iterator[Neighbour]:
    """Permanent unicast neighbours of that device, without what the kernel learned or made itself."""
    found = _NEIGHBOURS.read(payloads)
    expected = (bytes((protocol,)), None)  # it is told only where there is one
    for where, address, mac, bearing in found:
        found_index, state = _INDEX_STATE.unpack(where or b"")
        if found_index == index and state & NUD_PERMANENT and address and mac and len(mac) == _MAC_BYTES:
            yield Neighbour(device, address, mac if bearing in expected else b"")


def fdb_entries(payloads: Sequence[bytes], device: str, index: int) -> Iterator[FdbEntry]:
    """FDB entries of that device that say where a MAC lives."""
    found = _NEIGHBOURS.read(payloads)
    for where, destination, mac, _ in found:
        if _INDEX_STATE.unpack(where or b"")[0] == index and destination and mac and len(mac) == _MAC_BYTES:
            yield FdbEntry(device, mac, destination)


def _neighbour(neighbour: Neighbour, index: int, protocol: int) -> bytes:
    address = neighbour.address
    size = len(address)
    head = (_AF[size], 0, 0, index, NUD_PERMANENT, 0, _RTN_UNICAST)
    return _NEIGHBOUR[size].pack(
        *head, 4 + size, _NDA_DST, address, 10, _NDA_LLADDR, neighbour.mac, 5, _NDA_PROTOCOL, protocol
    )


def _fdb(entry: FdbEntry, index: int) -> bytes:
    size = len(entry.destination)
    head = (AF_BRIDGE, 0, 0, index, NUD_PERMANENT, _NTF_SELF, 0)
    return _FDB[size].pack(*head, 10, _NDA_LLADDR, entry.mac, 4 + size, _NDA_DST, entry.destination)


# ---- routes


def put_route(route: Route, mark: RouteMark, index: int = 0) -> Request:
    """``index``: of the route's own device, where it has one."""
    if route.gateway:
        header = _route_header(route, mark, _RTN_UNICAST, flags=_RTNH_F_ONLINK)
        body = attribute(_RTA_TABLE, _U32.pack(mark.table)) + attribute(_RTA_DST, route.prefix)
        body += attribute(_RTA_GATEWAY, route.gateway) + attribute(_RTA_OIF, _U32.pack(index))
        body += attribute(_RTA_PRIORITY, _U32.pack(route.metric))
        return Request(RTM_NEWROUTE, REPLACE, header + body + _common(route.source, route.mtu))
    size = len(route.prefix)
    table = mark.table if mark.table < 256 else _RT_TABLE_COMPAT
    head = (_AF[size], route.length, 0, 0, table, mark.protocol, 0, _RTN_UNICAST, 0)
    body = _PUT_ROUTE[size].pack(
        *head, 8, _RTA_TABLE, mark.table, 4 + size, _RTA_DST, route.prefix, 8, _RTA_NH_ID, route.nexthop
    )
    return Request(RTM_NEWROUTE, REPLACE, body + _common(route.source, route.mtu))


def delete_route(route: Route, mark: RouteMark) -> Request:
    """By prefix, metric, table and protocol, whatever its scope: never a route that somebody else put there."""
    metric = _DEFAULT_METRIC[address_family(route.prefix)] if route.metric < 0 else route.metric
    body = (
        attribute(_RTA_TABLE, _U32.pack(mark.table))
        + attribute(_RTA_DST, route.prefix)
        + attribute(_RTA_PRIORITY, _U32.pack(metric))
    )
    return Request(RTM_DELROUTE, 0, _route_header(route, mark, 0, _RT_SCOPE_NOWHERE) + body)


def dump_routes(family: int, table: int) -> bytes:
    """Payload of a dump of one table (AF_INET, AF_INET6), filtered by the kernel."""
    return _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_UNSPEC, 0, 0, 0, 0) + attribute(_RTA_TABLE, _U32.pack(table))


def dump_routes_by(family: int, index: int) -> bytes:
    """Payload of a dump of the routes of all tables that lead to one device, by nexthop objects too."""
    return _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_UNSPEC, 0, 0, 0, 0) + attribute(_RTA_OIF, _U32.pack(index))


_ROUTES: Final = Reader(12, _ROUTE_PATHS, spans=[(0, 12)], ignored=[(_RTA_CACHEINFO,)])


def without_cache(payloads: Sequence[bytes]) -> Iterable[bytes]:
    """What routes say, without how often they were used."""
    return _ROUTES.steady(payloads)


def routes(payloads: Sequence[bytes], names: Mapping[int, str]) -> Iterator[tuple[RouteMark, Route]]:
    """Table and protocol, and the route, of dumped objects; the kernel's own entries are left out."""
    marks: dict[tuple[bytes | None, int], RouteMark] = {}
    for header, where, prefix, nexthop, source, mtu, priority, gateway, oif in _ROUTES.read(payloads):
        family, length, _, _, table, protocol, _, _, flags = _RTMSG.unpack(header or b"")
        if flags & _RTM_F_CLONED:
            continue
        mark = marks.get((where, protocol))
        if mark is None:
            mark = marks[where, protocol] = RouteMark(_number(where) or table, protocol)
        metric = _number(priority)
        route = Route(
            prefix=prefix or b"\0" * (4 if family == socket.AF_INET else 16),
            length=length,
            nexthop=_number(nexthop),
            source=source,
            mtu=_number(mtu),
            metric=-1 if metric == _DEFAULT_METRIC[family] else metric,
        )
        if not nexthop and gateway:
            device = names.get(_number(oif), "")
            route = msgspec.structs.replace(route, nexthop=metric, device=device, gateway=gateway)
        yield mark, route


def _number(value: bytes | None) -> int:
    """Of an attribute in the machine's byte order; 0 where there is none."""
    return int.from_bytes(value, sys.byteorder) if value else 0


def _route_header(route: Route, mark: RouteMark, kind: int, scope: int = 0, flags: int = 0) -> bytes:
    table = mark.table if mark.table < 256 else _RT_TABLE_COMPAT
    return _RTMSG.pack(address_family(route.prefix), route.length, 0, 0, table, mark.protocol, scope, kind, flags)


@lru_cache(maxsize=64)
def _common(source: Packed | None, mtu: int) -> bytes:
    """What the routes of one device have in common."""
    body = attribute(_RTA_PREFSRC, source) if source else b""
    return body + (attribute(_RTA_METRICS | NESTED, attribute(_RTAX_MTU, _U32.pack(mtu))) if mtu else b"")
