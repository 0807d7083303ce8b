"""Tells when somebody touched what is ours, or when the underlay moved.

Two listening sockets, route netlink and nftables. Pod churn passes by on the same groups (a veth with its addresses
and some rules for each pod), so only messages about our devices, table, protocol and nftables table count, and those
about the underlay: its links with their addresses, and addresses that are the node's or may be chosen, wherever they
appear. What we write ourselves we do not hear of, FDB entries excepted, of which the kernel does not say who wrote
them. A socket that overran has missed something: that counts as a change too, and costs one resync.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from clustermeshd.kernel import addresses, links, messages, rules
from clustermeshd.kernel.netlink import Netlink, Received, RepliesLost, attributes
from clustermeshd.kernel.nftdump import NFNETLINK
from clustermeshd.kernel.state import FdbEntry, Packed
from clustermeshd.model.errors import Retriable
from clustermeshd.model.settings import Dataplane

# linux/rtnetlink.h RTNLGRP_*: link, neighbour, addresses, routes, rules (each v4 and v6), nexthop
_ROUTE_GROUPS: Final = (1, 3, 5, 9, 7, 11, 8, 19, 32)
_NFT_GROUP: Final = 7
_NFT_SUBSYSTEM: Final = 10
_NFPROTO_INET: Final = 1
_U32: Final = struct.Struct("=I")
_INDEX: Final = struct.Struct("=i")
_LOOPBACK: Final = 1  # index of lo, where tunnel addresses stand


class Monitor:
    """Non-blocking; ``sockets`` go into a selector or an event loop, and ``drain`` says whether to look."""

    def __init__(
        self,
        settings: Dataplane,
        own_ports: frozenset[int],
        planned: Callable[[FdbEntry], FdbEntry | None] = lambda _: None,
    ) -> None:
        """``planned``: the FDB entry that is wanted where that one is."""
        self._settings, self._planned = settings, planned
        self._names = {settings.device_of(family) for family in (4, 6)}
        self._watched: frozenset[int] = frozenset()
        self._devices: dict[str, int] = {}  # ours
        self._addresses: frozenset[Packed] = frozenset()
        self._route = Netlink(groups=_ROUTE_GROUPS)
        self._nft = Netlink(NFNETLINK, groups=(_NFT_GROUP,))
        for listener in self.sockets:
            listener.ignore(own_ports)
            listener.socket.setblocking(False)

    @property
    def sockets(self) -> tuple[Netlink, Netlink]:
        return self._route, self._nft

    def watch(self, devices: Mapping[str, int]) -> None:
        """Devices by name with their indexes whose links and neighbours count: ours and those below them."""
        self._watched = frozenset(devices.values())
        self._devices = {name: index for name, index in devices.items() if name in self._names}

    def expect(self, addresses: Iterable[Packed]) -> None:
        """The node's own addresses, which count on whatever device they come or go. To be told before a round."""
        self._addresses = frozenset(addresses)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Hear of nothing meanwhile; to be followed by a look at everything. May be used from any thread.

        While anybody listens, the kernel makes 4 KiB of message for each element of a set: more work than to write it.
        """
        with self._route.deaf(), self._nft.deaf():
            yield

    def close(self) -> None:
        for listener in self.sockets:
            listener.close()

    def drain(self) -> bool:
        """Read all that waits; whether any of it concerns us."""
        concerns = False
        for listener, is_ours in ((self._route, self._is_route_event), (self._nft, self._is_nft_event)):
            try:
                while True:
                    for message in listener.receive():
                        concerns = concerns or is_ours(message)
            except BlockingIOError:
                continue
            except (RepliesLost, Retriable):
                listener.socket.setblocking(False)
                concerns = True
        return concerns

    def _is_route_event(self, message: Received) -> bool:
        kind, payload = message.kind, message.payload
        if kind in (links.RTM_NEWLINK, links.RTM_DELLINK):
            return self._is_link_event(payload)
        if kind in (addresses.RTM_NEWADDR, addresses.RTM_DELADDR):
            address, index = addresses.read_address(payload)
            is_known = index in self._watched or index == _LOOPBACK or address in self._addresses
            return is_known or addresses.may_be_chosen(address, self._settings)
        if kind in (messages.RTM_NEWNEIGH, messages.RTM_DELNEIGH):
            if payload[0] == messages.AF_BRIDGE:
                return self._is_fdb_event(kind, payload)
            return bool(_INDEX.unpack_from(payload, 4)[0] in self._watched and self._is_permanent(kind, payload))
        if kind in (messages.RTM_NEWNEXTHOP, messages.RTM_DELNEXTHOP):
            return payload[2] == self._settings.route_protocol
        if kind in (messages.RTM_NEWROUTE, messages.RTM_DELROUTE):
            return self._table_of(payload) == self._settings.table
        if kind in (rules.RTM_NEWRULE, rules.RTM_DELRULE):
            return self._table_of(payload) == self._settings.table
        return False

    def _is_link_event(self, payload: bytes) -> bool:
        if _INDEX.unpack_from(payload, 4)[0] in self._watched:
            return True
        name = attributes(payload, 16).get(links.IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        return name in self._names

    def _is_fdb_event(self, kind: int, payload: bytes) -> bool:
        """Whether an FDB entry of ours is not as it is wanted now."""
        index = _INDEX.unpack_from(payload, 4)[0]
        for name, own in self._devices.items():
            if own == index:
                found = next(messages.fdb_entries([payload], name, index), None)
                wanted = self._planned(found) if found is not None else None
                return wanted != (found if kind == messages.RTM_NEWNEIGH else None)
        return False

    @staticmethod
    def _is_permanent(kind: int, payload: bytes) -> bool:
        """Ageing neighbours of the underlay come and go; ours never do by themselves."""
        state = struct.unpack_from("=H", payload, 8)[0]
        return kind == messages.RTM_DELNEIGH or bool(state & messages.NUD_PERMANENT)

    @staticmethod
    def _table_of(payload: bytes) -> int:
        table = attributes(payload, 12).get(15)  # RTA_TABLE and FRA_TABLE alike
        return int(_U32.unpack(table)[0]) if table else payload[4]

    def _is_nft_event(self, message: Received) -> bool:
        """The table name is attribute 1 of every nftables object but a generation."""
        if message.kind >> 8 != _NFT_SUBSYSTEM or message.payload[:1] != bytes((_NFPROTO_INET,)):
            return False
        return attributes(message.payload, 4).get(1, b"").rstrip(b"\0") == self._settings.nft_table.encode()
