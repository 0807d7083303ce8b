"""The policy rule that leads a family to our routing table, marked by its protocol (FRA_PROTOCOL, kernel 4.17)."""

from __future__ import annotations

import socket
import struct
from typing import Final

from clustermeshd.kernel.netlink import CREATE, Netlink, Request, attribute, attributes
from clustermeshd.kernel.state import Rule
from clustermeshd.model.settings import Dataplane

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
_RULE: Final = struct.Struct("=8BI")  # family, dst length, src length, tos, table, reserved, reserved, action, flags
_U32: Final = struct.Struct("=I")
_FRA_PRIORITY, _FRA_TABLE, _FRA_PROTOCOL = 6, 15, 21
_TO_TABLE, _TABLE_COMPAT = 1, 252
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def dump_rules(netlink: Netlink, settings: Dataplane) -> dict[object, Rule]:
    """Rules that carry our protocol, and our priority or table."""
    found: dict[object, Rule] = {}
    for family, number in FAMILIES.items():
        for payload in netlink.dump(RTM_GETRULE, _RULE.pack(number, 0, 0, 0, 0, 0, 0, 0, 0)):
            given = attributes(payload, 12)
            if given.get(_FRA_PROTOCOL) != bytes((settings.route_protocol,)):
                continue
            priority, table = (_U32.unpack(given.get(kind, b"\0" * 4))[0] for kind in (_FRA_PRIORITY, _FRA_TABLE))
            if priority == settings.rule_priority or table == settings.table:
                found[family, priority, table] = Rule(family, priority, table)
    return found


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
