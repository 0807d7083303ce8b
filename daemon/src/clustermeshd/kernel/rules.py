"""The policy rule that leads a family to our routing table, marked by its protocol (FRA_PROTOCOL, kernel 4.17)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Final

from clustermeshd.kernel.messages import LAST_RESERVED
from clustermeshd.kernel.netlink import CREATE, Netlink, Request, attribute, attributes
from clustermeshd.kernel.state import FormerRule, Rule
from clustermeshd.model.settings import Dataplane

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
_RULE: Final = struct.Struct("=8BI")  # family, dst length, src length, tos, table, reserved, reserved, action, flags
_U32: Final = struct.Struct("=I")
_FRA_PRIORITY, _FRA_SUPPRESS, _FRA_TABLE, _FRA_PROTOCOL = 6, 14, 15, 21
_TO_TABLE, _TABLE_COMPAT, _NOTHING_SUPPRESSED = 1, 252, 0xFFFFFFFF
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def dump_rules(netlink: Netlink, settings: Dataplane) -> tuple[dict[object, Rule], list[FormerRule]]:
    """Rules that carry our protocol, and our priority or table; and those of other protocols or places.

    Of the others only such as ours are: a table, and no condition; and none of the kernel or made by hand.
    """
    ours: dict[object, Rule] = {}
    others: list[FormerRule] = []
    for family, number in FAMILIES.items():
        for payload in netlink.dump(RTM_GETRULE, _RULE.pack(number, 0, 0, 0, 0, 0, 0, 0, 0)):
            given = attributes(payload, 12)
            protocol = given.get(_FRA_PROTOCOL, b"\0")[0]
            priority, table = (_U32.unpack(given.get(kind, b"\0" * 4))[0] for kind in (_FRA_PRIORITY, _FRA_TABLE))
            rule = Rule(family, priority, table)
            is_in_place = priority == settings.rule_priority or table == settings.table
            if protocol == settings.route_protocol and is_in_place:
                ours[rule.key] = rule
            elif protocol > LAST_RESERVED and _is_plain(payload, given):
                others.append(FormerRule(rule, protocol))
    return ours, others


def _is_plain(payload: bytes, given: Mapping[int, bytes]) -> bool:
    """Whether it leads every packet of the family to a table."""
    _, destination, source, tos, _, _, _, action, flags = _RULE.unpack_from(payload)
    unlimited = given.get(_FRA_SUPPRESS, _U32.pack(_NOTHING_SUPPRESSED)) == _U32.pack(_NOTHING_SUPPRESSED)
    return (
        (destination, source, tos, action, flags) == (0, 0, 0, _TO_TABLE, 0)
        and unlimited
        and given.keys() <= {_FRA_PRIORITY, _FRA_TABLE, _FRA_PROTOCOL, _FRA_SUPPRESS}
    )


def put_rule(rule: Rule, protocol: int) -> Request:
    return Request(RTM_NEWRULE, CREATE, _rule(rule, protocol))


def delete_rule(rule: Rule, protocol: int) -> Request:
    return Request(RTM_DELRULE, 0, _rule(rule, protocol))


def _rule(rule: Rule, protocol: int) -> bytes:
    table = rule.table if rule.table < 256 else _TABLE_COMPAT
    return (
        _RULE.pack(FAMILIES[rule.family], 0, 0, 0, table, 0, 0, _TO_TABLE, 0)
        + attribute(_FRA_PRIORITY, _U32.pack(rule.priority))
        + attribute(_FRA_TABLE, _U32.pack(rule.table))
        + attribute(_FRA_PROTOCOL, bytes((protocol,)))
    )
