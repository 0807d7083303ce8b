"""What a node still has of ours from the time before a setting was changed.

It is found by what does not depend on settings: the alias of a device and the comment of an nftables table tell by
themselves; by our devices we know the nexthops and routes on them, and by such routes the rule that leads there. What
has only a table or a protocol in common with us is somebody else's.

All of it goes once what takes its place stands; where that is the same object to the kernel, it is written over.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from clustermeshd.kernel import addresses, messages
from clustermeshd.kernel.netlink import Netlink, NetlinkError
from clustermeshd.kernel.state import FormerRoute, FormerRule, HostAddress, Link, Nexthop
from clustermeshd.model.settings import Dataplane


class Leftovers(NamedTuple):
    """Routes and rules by another table, priority or protocol than ours; and the other protocols."""

    routes: list[FormerRoute]
    rules: list[FormerRule]
    protocols: frozenset[int]

    def addresses(self, netlink: Netlink, links: dict[str, Link]) -> dict[object, HostAddress]:
        """Tunnel addresses that bear one of those protocols."""
        dumps = (addresses.dump_addresses(netlink, links, protocol)[1] for protocol in self.protocols)
        return {key: HostAddress(value.address, is_marked=False) for found in dumps for key, value in found.items()}


def find_leftovers(
    netlink: Netlink,
    settings: Dataplane,
    names: Mapping[int, str],
    own: Mapping[str, int],
    nexthops: Mapping[object, Nexthop],
    other_rules: Iterable[FormerRule],
    protocols: Collection[int],
) -> Leftovers:
    """``own``: our devices by name, former ones too; ``protocols``: other ones that ``nexthops`` bear."""
    ours = (settings.table, settings.route_protocol)
    routes = [
        FormerRoute(route, *mark)
        for payloads in _routes_on(netlink, own.values())
        for mark, route in messages.routes(payloads, names)
        if mark != ours
        and mark.protocol > messages.LAST_RESERVED
        and route.nexthop >= messages.FIRST_NEXTHOP
        and (route.device in own if route.gateway else route.nexthop in nexthops)
    ]
    marks = {(route.table, route.protocol) for route in routes}
    place = (settings.rule_priority, settings.table)
    rules = [
        found
        for found in other_rules
        if (found.rule.table, found.protocol) in marks or (found.rule.priority, found.rule.table) == place
    ]
    found = {*protocols, *(route.protocol for route in routes), *(rule.protocol for rule in rules)}
    return Leftovers(routes, rules, frozenset(found - {settings.route_protocol}))


def _routes_on(netlink: Netlink, devices: Iterable[int]) -> Iterator[list[bytes]]:
    """Routes of all tables on those devices, by family."""
    for index in devices:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                yield netlink.dump(messages.RTM_GETROUTE, messages.dump_routes_by(family, index))
            except NetlinkError as error:
                if error.code != errno.ENODEV:  # gone meanwhile, and they with it
                    raise
