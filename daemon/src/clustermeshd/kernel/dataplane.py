"""The kernel as one object: read what carries our marks, write a difference.

Order of additions: device, tunnel address, nftables, nexthop, FDB entry, neighbour, route, rule; removals go the
other way round. nftables stands before routes, since the first packet of a connection decides its NAT for good.
Nothing is ever flushed, and one object that fails stops no other.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, Final

from clustermeshd.kernel import addresses, links, messages, nftables, rules, sysctls
from clustermeshd.kernel.leftovers import find_leftovers
from clustermeshd.kernel.libnftables import NftError
from clustermeshd.kernel.memory import Memory, fingerprint
from clustermeshd.kernel.messages import FIRST_NEXTHOP, RouteMark
from clustermeshd.kernel.netlink import Netlink, NetlinkError, Request
from clustermeshd.kernel.state import (
    Changes,
    Delta,
    Device,
    Failure,
    FdbEntry,
    FormerRoute,
    FormerRule,
    FormerTable,
    KernelState,
    Leftover,
    Marked,
    Neighbour,
    Nexthop,
    Report,
    Route,
    Rule,
    Surroundings,
    found,
    keyed,
)
from clustermeshd.model.errors import Refused
from clustermeshd.model.settings import Dataplane

_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
MAC_PREFIX: Final = b"\x0e"  # model.addresses.vtep_mac
NOTHING: Final = Marked()
_BULK: Final = ("fdb", "neighbours", "nexthops", "routes")
_LEADING: Final = (*_BULK, "devices", "rules")  # what leads packets into the mesh
_ADDRESS_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class Kernel:
    """The data plane of one node, in the network namespace of the thread that makes it. Calls block; one at a time."""

    def __init__(self, settings: Dataplane) -> None:
        self._settings = settings
        self._mark = RouteMark(settings.table, settings.route_protocol)
        self._netlink = Netlink()
        self._table = nftables.Table(settings)
        self._memory = Memory()
        self._knows_nexthops = self._probe_nexthops()
        self.has_nexthops = settings.use_nexthops and self._knows_nexthops
        self._may_have_leftovers = True  # they come with a start under other settings, and with nothing else

    @property
    def ports(self) -> frozenset[int]:
        """Netlink port ids of our writes: how the monitor tells them from other people's."""
        return self._table.ports | {self._netlink.port}

    def close(self) -> None:
        self._netlink.close()
        self._table.close()

    # ---- reading

    def observe(self, expected: Marked = NOTHING) -> KernelState:
        """Everything that carries our marks, and the surroundings that a plan must know.

        What is found as ``expected`` is the very same value, or the very same mapping, so that memory holds it once.
        """
        netlink, settings = self._netlink, self._settings
        all_links, vxlans = links.dump_links(netlink)
        names = {settings.device_of(family) for family in (4, 6)}
        indexes = {link.index: link.name for link in all_links.values()}
        everything, ours = addresses.dump_addresses(netlink, all_links, settings.route_protocol)
        devices = {name: vxlans[name] for name in names & vxlans.keys() if self._is_ours(vxlans[name])}
        former = {name: device for name, device in vxlans.items() if device.is_marked and name not in names}
        own = {name: all_links[name].index for name in devices}
        all_own = own | {name: all_links[name].index for name in former}
        fdb, neighbours = self._dump_fdb(own, expected.fdb), self._dump_neighbours(own, expected.neighbours)
        nexthops, foreign_nexthops, protocols = self._dump_nexthops(indexes, all_own, expected.nexthops)
        routes, foreign_routes = self._dump_routes(indexes, own, expected.routes)
        table = self._table.observe(expected.nft)
        own_rules, other_rules = rules.dump_rules(netlink, settings)
        leftovers: dict[object, Leftover] = keyed(former.values())
        if self._may_have_leftovers:
            left = find_leftovers(netlink, settings, indexes, all_own, nexthops, other_rules, protocols)
            more: list[Leftover] = [*left.routes, *left.rules, *map(FormerTable, self._table.former())]
            leftovers |= keyed(more)
            foreign_routes -= {value.route.key for value in left.routes if value.table == settings.table}
            ours |= left.addresses(netlink, all_links)
            self._may_have_leftovers = bool(leftovers or left.protocols)
        marked = Marked(
            devices=keyed(devices.values()),
            addresses=ours,
            nexthops=nexthops,
            fdb=fdb,
            neighbours=neighbours,
            routes=routes,
            rules=own_rules,
            leftovers=leftovers,
            nft=table,
        )
        around = Surroundings(
            links=all_links,
            addresses=everything,
            foreign_devices=frozenset(names & all_links.keys() - devices.keys()),
            foreign_routes=foreign_routes,
            foreign_nexthops=foreign_nexthops,
            forwarding=sysctls.read_forwarding(),
            rival_vxlans=tuple(device for name, device in vxlans.items() if name not in all_own),
            has_foreign_nft=self._table.is_foreign,
            has_nexthops=self.has_nexthops,
        )
        return KernelState(marked, around, self._table.dropped)

    def _is_ours(self, device: Device) -> bool:
        """By its mark; or by all numbers and the MAC prefix, where we died between making and marking it."""
        numbers = (device.vni, device.port, device.learns, device.mac[:1])
        family = 4 if device.name == self._settings.device_of(4) else 6
        return device.is_marked or numbers == (self._settings.vni_of(family), self._settings.port, False, MAC_PREFIX)

    def _dump_fdb(self, own: Mapping[str, int], expected: Mapping[object, FdbEntry]) -> Mapping[object, FdbEntry]:
        dumps = {name: self._dump(messages.RTM_GETNEIGH, messages.dump_fdb(index)) for name, index in own.items()}

        def entries() -> Iterator[FdbEntry]:
            return chain.from_iterable(messages.fdb_entries(dump, name, own[name]) for name, dump in dumps.items())

        steady = chain.from_iterable(map(messages.without_ages, dumps.values()))
        return self._memory.recall("fdb", fingerprint(steady, own), lambda: (found(entries, expected), None))[0]

    def _dump_neighbours(
        self, own: Mapping[str, int], expected: Mapping[object, Neighbour]
    ) -> Mapping[object, Neighbour]:
        dumps = {
            (name, family): self._dump(messages.RTM_GETNEIGH, messages.dump_neighbours(family, index))
            for name, index in own.items()
            for family in _ADDRESS_FAMILIES
        }

        def entries() -> Iterator[Neighbour]:
            protocol = self._mark.protocol
            return chain.from_iterable(
                messages.neighbours(dump, name, own[name], protocol) for (name, _), dump in dumps.items()
            )

        steady = chain.from_iterable(map(messages.without_ages, dumps.values()))
        return self._memory.recall("neighbours", fingerprint(steady, own), lambda: (found(entries, expected), None))[0]

    def _dump_nexthops(
        self, names: Mapping[int, str], own: Mapping[str, int], expected: Mapping[object, Nexthop]
    ) -> tuple[Mapping[object, Nexthop], frozenset[int], frozenset[int]]:
        """Ours; ids of others'; and protocols other than ours that some of ours bear."""
        payloads = self._dump(messages.RTM_GETNEXTHOP, messages.DUMP_NEXTHOPS) if self._knows_nexthops else []
        foreign, former = set(), set()

        def ours() -> Iterator[Nexthop]:
            for protocol, value in messages.nexthops(payloads, names):
                if value.id >= FIRST_NEXTHOP and protocol == self._mark.protocol:
                    yield value
                elif value.id >= FIRST_NEXTHOP and protocol > messages.LAST_RESERVED and value.device in own:
                    former.add(protocol)
                    yield Nexthop(value.id, "", value.gateway)
                else:
                    foreign.add(value.id)

        def parse() -> tuple[Mapping[object, Nexthop], tuple[frozenset[int], frozenset[int]]]:
            return found(ours, expected), (frozenset(foreign), frozenset(former))

        nexthops, (others, protocols) = self._memory.recall("nexthops", fingerprint(payloads, own), parse)
        return nexthops, others, protocols

    def _dump_routes(
        self, names: Mapping[int, str], own: Mapping[str, int], expected: Mapping[object, Route]
    ) -> tuple[Mapping[object, Route], frozenset[object]]:
        payloads = [
            payload
            for family in _ADDRESS_FAMILIES
            for payload in self._dump(messages.RTM_GETROUTE, messages.dump_routes(family, self._mark.table))
        ]
        foreign = set()

        def ours() -> Iterator[Route]:
            for mark, route in messages.routes(payloads, names):
                if mark == self._mark:
                    yield route
                elif mark.table == self._mark.table:  # not every kernel filters
                    foreign.add(route.key)

        def parse() -> tuple[Mapping[object, Route], frozenset[object]]:
            return found(ours, expected), frozenset(foreign)

        return self._memory.recall("routes", fingerprint(messages.without_cache(payloads), own), parse)

    def confirm(self, wanted: Marked, changes: Changes) -> None:
        """The last look found everything of ``wanted`` but ``changes`` as it should be."""
        deltas = dict(changes.deltas())
        self._memory.confirm({kind: getattr(wanted, kind) for kind in _BULK if not deltas[kind]})
        if wanted.nft is not None and changes.nft is None:
            self._table.confirm(wanted.nft.elements)

    def forget(self) -> None:
        """What was confirmed is being changed: look at everything again."""
        self._memory.forget()
        self._table.forget()

    def _probe_nexthops(self) -> bool:
        """Whether the kernel knows nexthop objects: by asking it, since distributions carry features back."""
        try:
            self._netlink.dump(messages.RTM_GETNEXTHOP, messages.DUMP_NEXTHOPS)
        except NetlinkError as error:
            if error.code in (errno.EOPNOTSUPP, errno.EINVAL):
                return False
            raise
        return True

    def _dump(self, kind: int, payload: bytes) -> list[bytes]:
        """A dump; empty where the kernel has no such table or device yet."""
        try:
            return self._netlink.dump(kind, payload)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                return []
            raise

    # ---- writing

    def apply(self, changes: Changes) -> Report:
        """Write a difference. Failures are reported, not raised, except lost replies (``RepliesLost``)."""
        self.forget()
        return _Writer(self._mark, self._netlink, self._table).apply(changes)


class _Writer:
    """One application of a difference: what was done and what failed."""

    def __init__(self, mark: RouteMark, netlink: Netlink, table: nftables.Table) -> None:
        self._mark, self._netlink, self._table = mark, netlink, table
        self._failures: list[Failure] = []
        self._written = self._removed = 0
        self._indexes: dict[str, int] = {}

    def apply(self, changes: Changes) -> Report:
        self._refresh_indexes()
        self._remove_first(changes)
        is_in_the_way = self._is_in_the_way(changes)
        if is_in_the_way:
            self._remove_leftovers(changes)
        if changes.devices.put:
            self._put_devices(changes.devices)
            self._refresh_indexes()
        self._put("addresses", changes.addresses, lambda value: addresses.put_address(value, *self._on("lo")))
        table_dies = changes.nft is not None and changes.nft.table is None
        if not table_dies:
            self._change_nft(changes)
        self._put("nexthops", changes.nexthops, lambda value: messages.put_nexthop(value, *self._on(value.device)))
        self._put("fdb", changes.fdb, lambda value: messages.put_fdb(value, self._index(value.device)))
        self._put("neighbours", changes.neighbours, self._put_neighbour)
        self._put(
            "routes", changes.routes, lambda value: messages.put_route(value, self._mark, self._index(value.device))
        )
        self._put("rules", changes.rules, lambda value: rules.put_rule(value, self._mark.protocol))
        self._delete("rules", self._rules_gone(changes, is_replaced=True), self._delete_rule)
        if not is_in_the_way and self._is_replaced(changes, (FormerRule, FormerRoute, Device), _LEADING):
            self._remove_leftovers(changes)
        self._remove_last(changes)
        if table_dies:
            self._change_nft(changes)
        if self._is_replaced(changes, (FormerTable,), ("nftables",)):
            self._remove_tables(changes)
        return Report(self._written, self._removed, tuple(self._failures))

    def _remove_first(self, changes: Changes) -> None:
        """Rules and routes go before what they lean on; what stays must never point at something half gone."""
        self._delete("rules", self._rules_gone(changes, is_replaced=False), self._delete_rule)
        self._delete("routes", changes.routes, lambda value: messages.delete_route(value, self._mark))

    def _remove_last(self, changes: Changes) -> None:
        """A nexthop goes only after routes that left it were rewritten: deleting it deletes its routes."""
        self._delete("neighbours", changes.neighbours, self._delete_neighbour)
        self._delete("fdb", changes.fdb, lambda value: messages.delete_fdb(value, self._index(value.device)))
        self._delete("nexthops", changes.nexthops, messages.delete_nexthop)
        self._delete("addresses", changes.addresses, lambda value: addresses.delete_address(value, *self._on("lo")))
        for device in changes.devices.delete:
            self._try("devices", device, partial(links.delete_device, self._netlink, device.name))
            self._removed += 1

    @staticmethod
    def _rules_gone(changes: Changes, *, is_replaced: bool) -> Delta[Rule]:
        """Rules to remove of families that get another one, or of those that get none."""
        families = {rule.family for rule in changes.rules.put}
        return Delta(delete=tuple(rule for rule in changes.rules.delete if (rule.family in families) == is_replaced))

    def _delete_rule(self, value: Rule) -> Request:
        return rules.delete_rule(value, self._mark.protocol)

    @staticmethod
    def _is_in_the_way(changes: Changes) -> bool:
        """Whether a leftover device holds the numbers of one that is to be made: the kernel takes them once only."""
        taken = {(value.vni, value.port) for value in changes.leftovers.delete if isinstance(value, Device)}
        return any((device.vni, device.port) in taken for device in changes.devices.put)

    def _is_replaced(self, changes: Changes, former: tuple[type, ...], kinds: Collection[str]) -> bool:
        """Whether nothing failed of those kinds, which replace such leftovers; else they stay, and are told."""
        is_written = changes.nft is not None and changes.nft.table is not None
        if not is_written and not any(delta.put for _, delta in changes.deltas()):
            return True  # nothing takes their place
        if not any(failure.kind in kinds for failure in self._failures):
            return True
        reason = "stays until what takes its place is written"
        staying = (value for value in changes.leftovers.delete if isinstance(value, former))
        self._failures += [Failure("leftovers", str(value), reason) for value in staying]
        return False

    def _remove_leftovers(self, changes: Changes) -> None:
        """The rule while routes still tell that it is ours; devices last, since nexthops and routes go with them."""
        gone = changes.leftovers.delete
        former_rules = Delta(delete=tuple(value for value in gone if isinstance(value, FormerRule)))
        former_routes = Delta(delete=tuple(value for value in gone if isinstance(value, FormerRoute)))
        self._delete("leftovers", former_rules, lambda value: rules.delete_rule(value.rule, value.protocol))
        self._delete(
            "leftovers",
            former_routes,
            lambda value: messages.delete_route(value.route, RouteMark(value.table, value.protocol)),
        )
        for device in gone:
            if isinstance(device, Device):
                self._try("leftovers", device, partial(links.delete_device, self._netlink, device.name))
                self._removed += 1

    def _remove_tables(self, changes: Changes) -> None:
        for table in changes.leftovers.delete:
            if isinstance(table, FormerTable):
                self._try("leftovers", table, partial(self._table.remove_former, table.name))
                self._removed += 1

    def _put_neighbour(self, value: Neighbour) -> Request:
        return messages.put_neighbour(value, *self._on(value.device))

    def _delete_neighbour(self, value: Neighbour) -> Request:
        return messages.delete_neighbour(value, *self._on(value.device))

    def _put_devices(self, delta: Delta[Device]) -> None:
        for device in delta.put:
            self._try("devices", device, partial(self._put_device, device))
            self._written += 1

    def _put_device(self, device: Device) -> None:
        all_links, vxlans = links.dump_links(self._netlink)
        lower = all_links.get(device.lower)
        if lower is None:
            raise Refused(
                "UnderlayGone", f"no interface {device.lower}", where=device.name, fix="waiting for it to come back"
            )
        actual = vxlans.get(device.name)
        if actual is not None and not device.needs_rebuild(actual):
            try:
                links.change_device(self._netlink, device, actual, lower.index)
            except NetlinkError as error:
                if error.code not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
            else:
                return
        if actual is not None:
            links.delete_device(self._netlink, device.name)
        links.create_device(self._netlink, device, lower.index)

    def _change_nft(self, changes: Changes) -> None:
        change = changes.nft
        if change is not None:
            self._try("nftables", change, partial(self._table.change, change))

    # ---- plumbing

    def _refresh_indexes(self) -> None:
        self._indexes = {name: link.index for name, link in links.dump_links(self._netlink)[0].items()}

    def _index(self, device: str) -> int:
        """Index of a device; 0 where it is not there, which the kernel answers with an error of that one message."""
        return self._indexes.get(device, 0)

    def _on(self, device: str) -> tuple[int, int]:
        return self._index(device), self._mark.protocol

    def _put(self, kind: str, delta: Delta[Any], encode: Callable[[Any], Request]) -> None:
        self._send(kind, ((encode(value), value) for value in delta.put), frozenset())
        self._written += len(delta.put)

    def _delete(self, kind: str, delta: Delta[Any], encode: Callable[[Any], Request]) -> None:
        self._send(kind, ((encode(value), value) for value in delta.delete), _GONE)
        self._removed += len(delta.delete)

    def _send(self, kind: str, requests: Iterable[tuple[Request, object]], ignored: frozenset[int]) -> None:
        for rejected in self._netlink.batch(requests):
            if rejected.code not in ignored:
                self._failures.append(
                    Failure(kind, str(rejected.subject), rejected.text, rejected.code, rejected.subject)
                )

    def _try(self, kind: str, subject: object, act: Callable[[], None]) -> None:
        try:
            act()
        except (NetlinkError, NftError, Refused) as error:
            code = error.code if isinstance(error, NetlinkError) else 0
            self._failures.append(Failure(kind, str(subject), str(error), code))
