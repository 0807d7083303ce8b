"""The sets of our nftables table: what each holds, and how it is declared.

This node's few prefixes stand in interval sets. Those of remote pods, and the bindings of an outer source to inner
sources, could too, but the kernel goes through a whole interval set for each change, and looks at all elements of one
of two fields for each packet. So these are looked up by hash, behind a mask: one set for each prefix length in use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from clustermeshd.kernel.state import Element, Packed, address_text

IP: Final = {4: "ip", 6: "ip6"}
_ADDRESS: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
_BYTES: Final = {4: 4, 6: 16}
# Behind 8 UDP, 8 VXLAN, 14 Ethernet, then 12 or 8 bytes of IP; in bits from the outer transport header.
_INNER_SOURCE: Final = {4: "@th,336,32", 6: "@th,304,128"}
_INTERVAL: Final = 0x4  # NFT_SET_INTERVAL
_PEERS: Final = re.compile(r"peers([46])([46])_([0-9]{1,3})", re.ASCII)
_REMOTE: Final = re.compile(r"remote_pods([46])_([0-9]{1,3})", re.ASCII)


def local_set(family: int) -> str:
    """Name of the set of the prefixes of this node's pods."""
    return f"local_pods{family}"


def remote_set(family: int, length: int) -> str:
    """Name of the set of remote pods' prefixes of one length."""
    return f"remote_pods{family}_{length}"


def nodes_set(family: int) -> str:
    """Name of the set of remote nodes' underlay addresses."""
    return f"nodes{family}"


def peers_set(outer: int, inner: int, length: int) -> str:
    """Name of the set of bindings of an outer family to prefixes of one length of an inner family."""
    return f"peers{outer}{inner}_{length}"


@dataclass(frozen=True, slots=True)
class SetKind:
    """How a set is declared. ``mark`` is its key length in bytes and its flags, as the kernel gives them back."""

    body: str
    mark: tuple[int, int]
    outer_bytes: int = 0  # of the first of two fields; 0 with a single one

    @property
    def is_interval(self) -> bool:
        return bool(self.mark[1] & _INTERVAL)

    def text(self, element: Element) -> str:
        """An element in nft's notation."""
        if self.outer_bytes:
            inner = int.from_bytes(element[self.outer_bytes :], "big")
            return f"{address_text(element[: self.outer_bytes])} . {inner:#x}"
        if not self.is_interval:
            return address_text(element)
        size = len(element) // 2
        low, high = element[:size], element[size:]
        return f"{address_text(low)}-{address_text(high)}" if low != high else address_text(low)


FIXED: Final = tuple(name for family in (4, 6) for name in (local_set(family), nodes_set(family)))


@cache
def set_kind(name: str) -> SetKind | None:
    """The kind of the set of that name; None where no set of ours has it."""
    if name in FIXED:
        family = int(name[-1])
        if name == nodes_set(family):
            return SetKind(f"type {_ADDRESS[family]};", (_BYTES[family], 0))
        return SetKind(f"type {_ADDRESS[family]}; flags interval;", (_BYTES[family], _INTERVAL))
    remote = remote_pods(name)
    if remote is not None:
        return SetKind(f"type {_ADDRESS[remote.family]};", (_BYTES[remote.family], 0))
    found = _PEERS.fullmatch(name)
    if found is None:
        return None
    outer, inner = int(found[1]), int(found[2])
    body = f"typeof {IP[outer]} saddr . {_INNER_SOURCE[inner]};"
    return SetKind(body, (_BYTES[outer] + _BYTES[inner], 0), _BYTES[outer])


class RemotePods(NamedTuple):
    """What a set of remote pods' prefixes holds."""

    family: int
    length: int


def remote_pods(name: str) -> RemotePods | None:
    """What a set of that name holds of remote pods' prefixes; None for a set of another kind."""
    found = _REMOTE.fullmatch(name)
    return RemotePods(int(found[1]), int(found[2])) if found else None


def remote_match(name: str, family: int) -> str | None:
    """Rule text that matches packets to remote pods of that set; None for a set of another kind or family."""
    found = remote_pods(name)
    if found is None or found.family != family:
        return None
    bits = 8 * _BYTES[family]
    mask = address_text(prefix_mask(found.length, bits).to_bytes(_BYTES[family], "big"))
    masked = "" if found.length == bits else f" & {mask}"
    return f"{IP[family]} daddr{masked} @{name}"


def prefix_mask(length: int, bits: int) -> int:
    """The mask of a prefix as a number of so many bits."""
    return ((1 << length) - 1) << (bits - length)


def bound_match(name: str) -> str | None:
    """Rule text that matches a tunnel packet whose sender may use its inner source; None for a set of another kind."""
    found = _PEERS.fullmatch(name)
    if found is None:
        return None
    outer, inner, length = int(found[1]), int(found[2]), int(found[3])
    bits = 8 * _BYTES[inner]
    masked = "" if length == bits else f" & {prefix_mask(length, bits):#x}"
    return f"{IP[outer]} saddr . {_INNER_SOURCE[inner]}{masked} @{name}"


def peers_inner(name: str) -> int | None:
    """Inner family of a set of bindings; None for a set of another kind."""
    found = _PEERS.fullmatch(name)
    return int(found[2]) if found else None


def prefix_element(low: Packed, high: Packed) -> Element:
    """Element of an interval set: the first and the last address of a prefix."""
    return low + high


def binding(outer: Packed, prefix: Packed) -> Element:
    """Element of a set of bindings: an outer source, and the first address of a prefix that it may send from."""
    return outer + prefix
