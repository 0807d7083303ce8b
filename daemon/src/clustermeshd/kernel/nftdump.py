"""What stands in our nftables table, by nfnetlink: chains, sets and rules, without set elements.

The nftables library reads every element of every set to list one table, and prints no table comment. Here the kernel
gives what is asked for. Numbers are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final

from clustermeshd.kernel.netlink import Netlink, attribute, attributes
from clustermeshd.kernel.state import BaseChain

NFNETLINK: Final = 12  # NETLINK_NETFILTER
SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
INET: Final = 1  # NFPROTO_INET
HEADER: Final = struct.Struct("!BBH")  # nfgenmsg: family, version, resource id
TABLE: Final = 1  # the table's name, in messages of every kind
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET = (SUBSYSTEM << 8 | number for number in (1, 4, 7, 10))
_TABLE_USERDATA: Final = 6
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE, _HOOK_NUMBER, _HOOK_PRIORITY = 3, 4, 5, 7, 1, 2
_SET_NAME, _SET_FLAGS, _SET_KEY_LENGTH = 2, 3, 5
_CONCATENATED: Final = 0x80  # NFT_SET_CONCAT
_RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USERDATA = 2, 4, 7
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER: Final = b"counter\0"
_COUNTED_PACKETS: Final = 2
_U32: Final = struct.Struct("!I")
_I32: Final = struct.Struct("!i")
_ATTRIBUTE: Final = struct.Struct("=HH")


class Dump:
    """Reads one table of family inet."""

    def __init__(self, netlink: Netlink, table: str) -> None:
        self._netlink, self._table = netlink, table.encode() + b"\0"

    def comment(self) -> bytes | None:
        """User data of the table, in which its comment stands; None where there is no such table."""
        found = next(self._objects(_GET_TABLE), None)
        return None if found is None else found.get(_TABLE_USERDATA, b"")

    def others(self) -> dict[str, str]:
        """Comment of each table of another name."""
        payloads = self._netlink.dump(_GET_TABLE, HEADER.pack(INET, 0, 0))
        tables = (attributes(payload, 4) for payload in payloads)
        return {
            _text(found[TABLE]): _comment(found.get(_TABLE_USERDATA, b""))
            for found in tables
            if found[TABLE] != self._table
        }

    def chains(self) -> dict[str, BaseChain | None]:
        """Each chain; None of one that is no base chain."""
        chains: dict[str, BaseChain | None] = {}
        for found in self._objects(_GET_CHAIN):
            hook = attributes(found.get(_CHAIN_HOOK, b""))
            is_base = _HOOK_NUMBER in hook and _HOOK_PRIORITY in hook
            chains[_text(found[_CHAIN_NAME])] = (
                BaseChain(
                    _text(found.get(_CHAIN_TYPE, b"")),
                    _U32.unpack(hook[_HOOK_NUMBER])[0],
                    _I32.unpack(hook[_HOOK_PRIORITY])[0],
                    _number(found, _CHAIN_POLICY),
                )
                if is_base
                else None
            )
        return chains

    def sets(self) -> dict[str, tuple[int, int]]:
        """Key length in bytes and flags (NFT_SET_*) of each set; not whether it has several fields, which varies."""
        return {
            _text(found[_SET_NAME]): (_number(found, _SET_KEY_LENGTH), _number(found, _SET_FLAGS) & ~_CONCATENATED)
            for found in self._objects(_GET_SET)
        }

    def rules(self) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
        """Chain, comment and a digest of what it does, of each rule in order; and packets counted by chain.

        The digest leaves out counts and sets' contents.
        """
        rules, packets = [], Counter[str]()
        for found in self._objects(_GET_RULE):
            chain, digest = _text(found[_RULE_CHAIN]), hashlib.sha256()
            for name, data in _expressions(found.get(_RULE_EXPRESSIONS, b"")):
                digest.update(name + (b"" if name == _COUNTER else data))
                if name == _COUNTER:
                    packets[chain] += _number(attributes(data), _COUNTED_PACKETS)
            rules.append((chain, _comment(found.get(_RULE_USERDATA, b"")), digest.hexdigest()))
        return rules, packets

    def _objects(self, kind: int) -> Iterator[dict[int, bytes]]:
        for payload in self._netlink.dump(kind, HEADER.pack(INET, 0, 0) + attribute(TABLE, self._table)):
            found = attributes(payload, 4)
            if found.get(TABLE) == self._table:  # not every kernel filters
                yield found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), "big")


def _comment(userdata: bytes) -> str:
    """The library's user data is a list of type, length, value; type 0 is a comment."""
    start = 0
    while start + 2 <= len(userdata):
        kind, length = userdata[start], userdata[start + 1]
        if kind == 0:
            return _text(userdata[start + 2 : start + 2 + length])
        start += 2 + length
    return ""


def _expressions(expressions: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and data of what a rule does, one after the other."""
    start = 0
    while start + 4 <= len(expressions):
        length = _ATTRIBUTE.unpack_from(expressions, start)[0]
        if length < 4:
            break
        found = attributes(expressions[start + 4 : start + length])
        yield found.get(_EXPRESSION_NAME, b""), found.get(_EXPRESSION_DATA, b"")
        start += (length + 3) & ~3
