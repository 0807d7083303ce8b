"""Our nftables table: NAT exemption, tunnel source, MSS clamp, and the guard of the tunnel port.

* ``exempt`` (nat, before every CNI's masquerade): a local pod keeps its address towards remote pods by a snat to its
  own address, which ends NAT for the connection whatever rule would come later. What else leaves by a mesh device gets
  the tunnel address, because nothing else of this node is routed back.
* ``clamp``: TCP segments that fit the tunnel, both ways, for paths that drop "fragmentation needed".
* ``guard``: a tunnel packet is dropped unless its outer source is a known remote node and its inner source belongs to
  that very node; pods may not send tunnel packets themselves (their node's masquerade would lend them its address);
  and what leaves the tunnel may only go to pods of this node or its tunnel address.

No rule accepts: every packet still meets the CNI's and the host's own rules.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from clustermeshd.kernel.elements import NFNETLINK, Sets
from clustermeshd.kernel.libnftables import Nft
from clustermeshd.kernel.netlink import Netlink
from clustermeshd.kernel.state import Interval, NftChange, NftTable, Packed, address_text
from clustermeshd.model.settings import Dataplane

_CHAINS: Final = {
    "exempt": ("nat", "postrouting", 90),  # srcnat - 10
    "clamp": ("filter", "forward", -150),  # mangle
    "guard": ("filter", "prerouting", -300),  # raw
    "inner": None,
}
_INNER_SOURCE: Final = {
    4: "@th,336,32",
    6: "@th,304,128",
}  # behind 8 UDP, 8 VXLAN, 14 Ethernet, then 12 or 8 bytes of IP
_ETHERTYPE: Final = {4: "0x0800", 6: "0x86dd"}
_IP: Final = {4: "ip", 6: "ip6"}
_ADDRESS: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
_BATCH: Final = 5000  # elements per command
MARK: Final = "clustermesh.io"  # comment of the table
_RULE_MARK: Final = "clustermesh "


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What the rules must know of one inner family's device. ``source`` is the tunnel address, if the node has one."""

    family: int
    device: str
    vni: int
    mtu: int
    source: Packed | None


def pods_set(side: str, family: int) -> str:
    """Name of the set of ``local`` or ``remote`` pod prefixes."""
    return f"{side}_pods{family}"


def nodes_set(family: int) -> str:
    """Name of the set of remote nodes' underlay addresses."""
    return f"nodes{family}"


def peers_set(outer: int, inner: int) -> str:
    """Name of the set of bindings of an outer to an inner family."""
    return f"peers{outer}{inner}"


def prefix_interval(low: int, high: int, size: int) -> Interval:
    """Element of a set of prefixes: first and last address, ``size`` bytes each."""
    return low.to_bytes(size, "big") + high.to_bytes(size, "big")


def binding(outer: Packed, interval: Interval) -> Interval:
    """Element of a ``peersXY`` set: an outer source bound to an interval of inner sources."""
    size = len(interval) // 2
    return outer + interval[:size] + outer + interval[size:]


def desired_table(tunnels: Iterable[Tunnel], elements: Mapping[str, Set[Interval]], port: int) -> NftTable:
    """The table as it should be: rules from the devices, elements by set name."""
    rules = _rules(sorted(tunnels, key=lambda tunnel: tunnel.family), port)
    return NftTable(
        chains=frozenset((name, _hook_mark(base)) for name, base in _CHAINS.items()),
        sets=frozenset((name, mark) for name, (_, mark) in _SETS.items()),
        rules=tuple((chain, _rule_mark(chain, text)) for chain, text in rules),
        elements={name: elements.get(name, frozenset()) for name in _SETS},
        texts=tuple(text for _, text in rules),
    )


class Table:
    """Our table in the kernel of the thread that makes this."""

    def __init__(self, settings: Dataplane) -> None:
        self._name = settings.nft_table
        self._nft = Nft()
        self._netlink = Netlink(NFNETLINK)
        self._sets = Sets(self._netlink, settings.nft_table)
        self._seen: dict[tuple[str, str], str] = {}
        self.is_foreign = False  # at the last look, a table of our name was not ours

    @property
    def ports(self) -> frozenset[int]:
        """Netlink port ids of our writes; the library's socket is the first of the process and has its number."""
        return frozenset({self._netlink.port, os.getpid()})

    def close(self) -> None:
        self._netlink.close()
        self._nft.close()

    def observe(self) -> NftTable | None:
        """The table as it is; None where there is none."""
        chains, sets, rules = set(), set(), []
        is_there = is_marked = False
        for entry in self._nft.list(f"list table inet {self._name}"):
            ((kind, value),) = entry.items()
            if kind == "table":
                is_there = True
                is_marked = value.get("comment") == MARK
            elif kind == "chain":
                base = (value["type"], value["hook"], value["prio"]) if "hook" in value else None
                chains.add((value["name"], _hook_mark(base)))
            elif kind == "set":
                kinds = value["type"] if isinstance(value["type"], list) else [value["type"]]
                sets.add((value["name"], _set_mark(kinds, value.get("flags", []))))
            elif kind == "rule":
                rules.append((value["chain"], self._mark(value)))
        is_marked = is_marked or any(mark.startswith(_RULE_MARK) for _, mark in rules)  # up to 0.1
        self.is_foreign = is_there and not is_marked and bool(chains or sets)
        if not is_there or self.is_foreign:
            return None
        wanted = {name for name, (_, mark) in _SETS.items() if (name, mark) in sets}
        elements = {name: self._sets.read(name, fields=FIELDS[name]) for name in wanted}
        return NftTable(frozenset(chains), frozenset(sets), _in_chain_order(rules), elements)

    def change(self, change: NftChange) -> None:
        """Carry out a change. A table that replaces another does so in one transaction.

        A new one gets its sets filled before its rules, so that no rule ever stands before an empty set.
        """
        table, name = change.table, self._name
        if table is None:
            self._nft.run(f"delete table inet {name}\n")
        elif change.is_new:
            self._run([_table_command(name), *_set_commands(name)])
            self._sets.change({}, change.add, FIELDS)
            self._run([*_chain_commands(name), *_rule_commands(name, table)])
        elif change.rebuild:
            anew = [f"add table inet {name}", f"delete table inet {name}", _table_command(name)]
            elements = _element_commands(name, change.add)
            self._run([*anew, *_set_commands(name), *_chain_commands(name), *_rule_commands(name, table), *elements])
        else:
            self._sets.change(change.remove, change.add, FIELDS)
            if change.write_rules:
                self._run([*(f"flush chain inet {name} {chain}" for chain in _CHAINS), *_rule_commands(name, table)])

    def _run(self, commands: Iterable[str]) -> None:
        self._nft.run("\n".join(commands) + "\n")

    def _mark(self, rule: Mapping[str, Any]) -> str:
        """The mark of a rule as its comment says, unless the rule under that mark was another when first seen."""
        mark = str(rule.get("comment", ""))
        text = json.dumps(_without_counts(rule.get("expr")), sort_keys=True)
        return mark if self._seen.setdefault((rule["chain"], mark), text) == text else f"{mark} edited"


def _without_counts(expression: Any) -> Any:
    if isinstance(expression, dict):
        return {key: "" if key == "counter" else _without_counts(value) for key, value in expression.items()}
    return [_without_counts(item) for item in expression] if isinstance(expression, list) else expression


def _table_command(name: str) -> str:
    return f'add table inet {name} {{ comment "{MARK}"; }}'


def _set_commands(name: str) -> list[str]:
    return [f"add set inet {name} {set_name} {{ {body} }}" for set_name, (body, _) in _SETS.items()]


def _chain_commands(name: str) -> list[str]:
    hooks = {
        chain: f" {{ type {base[0]} hook {base[1]} priority {base[2]}; policy accept; }}" if base else ""
        for chain, base in _CHAINS.items()
    }
    return [f"add chain inet {name} {chain}{hook}" for chain, hook in hooks.items()]


def _rule_commands(name: str, table: NftTable) -> list[str]:
    return [
        f'add rule inet {name} {chain} {text} comment "{mark}"'
        for (chain, mark), text in zip(table.rules, table.texts, strict=True)
    ]


def _element_commands(name: str, changed: Mapping[str, Collection[Interval]]) -> list[str]:
    return [
        f"add element inet {name} {set_name} {{ {', '.join(texts[start : start + _BATCH])} }}"
        for set_name, intervals in changed.items()
        for texts in [[_element_text(interval, FIELDS[set_name]) for interval in intervals]]
        for start in range(0, len(texts), _BATCH)
    ]


def _element_text(interval: Interval, fields: int) -> str:
    """An element in nft's notation."""
    size = len(interval) // 2
    low, high = interval[:size], interval[size:]
    if fields == 1:
        return f"{address_text(low)}-{address_text(high)}" if low != high else address_text(low)
    outer = 4 if size in (8, 20) else 16
    first, last = (int.from_bytes(key[outer:], "big") for key in (low, high))
    inner = f"{first:#x}-{last:#x}" if first != last else f"{first:#x}"
    return f"{address_text(low[:outer])} . {inner}"


def _rules(tunnels: Iterable[Tunnel], port: int) -> list[tuple[str, str]]:
    """All rules as (chain, text), chain by chain."""
    tunnels = list(tunnels)
    exempt, clamp, guard, inner = [], [], [], []
    for family in (4, 6):
        ip = _IP[family]
        local, remote = f"@{pods_set('local', family)}", f"@{pods_set('remote', family)}"
        exempt.append(f"{ip} saddr {local} {ip} daddr {remote} snat {ip} to {ip} saddr")
        guard.append(f"udp dport {port} {ip} saddr {local} {ip} daddr @{nodes_set(family)} counter drop")
    for tunnel in tunnels:
        ip, local = _IP[tunnel.family], f"@{pods_set('local', tunnel.family)}"
        device = f'"{tunnel.device}"'
        mss = tunnel.mtu - (40 if tunnel.family == 4 else 60)
        syn = "tcp flags syn tcp option maxseg size"
        clamp += [
            f"oifname {device} {syn} set rt mtu",
            f"iifname {device} {syn} > {mss} tcp option maxseg size set {mss}",
        ]
        own = ""
        if tunnel.source:
            source = address_text(tunnel.source)
            exempt.append(f"oifname {device} {ip} saddr != {local} snat {ip} to {source}")
            own = f" {ip} daddr != {source}"
        guard.append(f"iifname {device} {ip} daddr != {local}{own} counter drop")
        inner += [
            f"@th,96,24 {tunnel.vni} @th,224,16 {_ETHERTYPE[tunnel.family]} "
            f"{_IP[outer]} saddr . {_INNER_SOURCE[tunnel.family]} @{peers_set(outer, tunnel.family)} return"
            for outer in (4, 6)
        ]
    guard.append(f"udp dport {port} fib daddr type local jump inner")
    inner.append("counter drop")
    chains = {"exempt": exempt, "clamp": clamp, "guard": guard, "inner": inner}
    return [(chain, text) for chain in _CHAINS for text in chains[chain]]


def _in_chain_order(rules: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    order = {chain: position for position, chain in enumerate(_CHAINS)}
    return tuple(sorted(rules, key=lambda rule: order.get(rule[0], len(order))))


def _rule_mark(chain: str, text: str) -> str:
    return _RULE_MARK + hashlib.sha256(f"{chain} {text}".encode()).hexdigest()[:12]


def _hook_mark(base: tuple[str, str, int] | None) -> str:
    return " ".join(map(str, base)) if base else ""


def _set_mark(kinds: Iterable[str], flags: Iterable[str]) -> str:
    return f"{' . '.join(kinds)} {','.join(flags)}"


def _sets() -> dict[str, tuple[str, str]]:
    """Declaration body and mark of every set."""
    sets = {}
    for family in (4, 6):
        for set_name in (pods_set("local", family), pods_set("remote", family), nodes_set(family)):
            sets[set_name] = (f"type {_ADDRESS[family]}; flags interval;", _set_mark([_ADDRESS[family]], ["interval"]))
        for inner in (4, 6):
            body = f"typeof {_IP[family]} saddr . {_INNER_SOURCE[inner]}; flags interval;"
            sets[peers_set(family, inner)] = (body, _set_mark([_ADDRESS[family], "integer"], ["interval"]))
    return sets


_SETS: Final = _sets()
FIELDS: Final[Mapping[str, int]] = {name: 2 if "typeof" in body else 1 for name, (body, _) in _SETS.items()}
