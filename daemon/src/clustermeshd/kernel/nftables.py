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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from clustermeshd.kernel.libnftables import Nft
from clustermeshd.kernel.state import NftChange, NftTable, Packed, address_text
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


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What the rules must know of one inner family's device. ``source`` is the tunnel address, if the node has one."""

    family: int
    device: str
    vni: int
    mtu: int
    source: Packed | None


def prefix_element(network: IPv4Network | IPv6Network) -> str:
    """A prefix in nft's canonical form: a single address stands without its length."""
    address = address_text(network.network_address.packed)
    return address if network.prefixlen == network.max_prefixlen else f"{address}/{network.prefixlen}"


def binding_element(outer: Packed, inner: IPv4Network | IPv6Network) -> str:
    """Outer source bound to a range of inner sources, as ``peersXY`` sets hold it: inner ones are raw integers."""
    return _binding(address_text(outer), int(inner.network_address), int(inner.broadcast_address))


def pods_set(side: str, family: int) -> str:
    """Name of the set of ``local`` or ``remote`` pod prefixes."""
    return f"{side}_pods{family}"


def nodes_set(family: int) -> str:
    """Name of the set of remote nodes' underlay addresses."""
    return f"nodes{family}"


def peers_set(outer: int, inner: int) -> str:
    """Name of the set of bindings of an outer to an inner family."""
    return f"peers{outer}{inner}"


def desired_table(tunnels: Iterable[Tunnel], elements: Mapping[str, Iterable[str]], port: int) -> NftTable:
    """The table as it should be: rules from the devices, elements by set name."""
    sets = _sets()
    rules = _rules(sorted(tunnels, key=lambda tunnel: tunnel.family), port)
    return NftTable(
        chains=frozenset((name, _hook_mark(base)) for name, base in _CHAINS.items()),
        sets=frozenset((name, mark) for name, (_, mark) in sets.items()),
        rules=tuple((chain, _rule_mark(chain, text)) for chain, text in rules),
        elements={name: frozenset(elements.get(name, ())) for name in sets},
        texts=tuple(text for _, text in rules),
    )


def observe_table(nft: Nft, settings: Dataplane) -> NftTable | None:
    """The table as the kernel has it; None where there is none."""
    listed = nft.list(f"list table inet {settings.nft_table}")
    chains, sets, rules = set(), set(), []
    elements: dict[str, frozenset[str]] = {}
    is_there = False
    for entry in listed:
        ((kind, value),) = entry.items()
        if kind == "table":
            is_there = True
        elif kind == "chain":
            base = (value["type"], value["hook"], value["prio"]) if "hook" in value else None
            chains.add((value["name"], _hook_mark(base)))
        elif kind == "set":
            kinds = value["type"] if isinstance(value["type"], list) else [value["type"]]
            sets.add((value["name"], _set_mark(kinds, value.get("flags", []))))
            elements[value["name"]] = frozenset(_element(item) for item in value.get("elem", []))
        elif kind == "rule":
            rules.append((value["chain"], value.get("comment", "")))
    if not is_there:
        return None
    return NftTable(frozenset(chains), frozenset(sets), _in_chain_order(rules), elements)


def transaction(change: NftChange, name: str) -> str:
    """Commands that carry out a change, all or nothing."""
    table = change.table
    if table is None:
        return f"delete table inet {name}\n"
    lines = []
    if change.rebuild:
        lines += [f"add table inet {name}", f"delete table inet {name}", f"add table inet {name}"]
        lines += [f"add set inet {name} {declaration} {{ {body} }}" for declaration, body in _declarations()]
        for chain, base in _CHAINS.items():
            hook = f" {{ type {base[0]} hook {base[1]} priority {base[2]}; policy accept; }}" if base else ""
            lines.append(f"add chain inet {name} {chain}{hook}")
    elif change.write_rules:
        lines += [f"flush chain inet {name} {chain}" for chain in _CHAINS]
    if change.rebuild or change.write_rules:
        for (chain, mark), text in zip(table.rules, table.texts, strict=True):
            lines.append(f'add rule inet {name} {chain} {text} comment "{mark}"')
    lines += _element_commands("delete", name, change.remove)
    lines += _element_commands("add", name, change.add)
    return "\n".join(lines) + "\n"


def _element_commands(verb: str, name: str, changed: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [
        f"{verb} element inet {name} {set_name} {{ {', '.join(elements[start : start + _BATCH])} }}"
        for set_name, elements in changed.items()
        for start in range(0, len(elements), _BATCH)
    ]


def _sets() -> dict[str, tuple[str, str]]:
    """Declaration body and mark of every set."""
    sets = {}
    for family in (4, 6):
        for side in ("local", "remote"):
            body = f"type {_ADDRESS[family]}; flags interval;"
            sets[pods_set(side, family)] = (body, _set_mark([_ADDRESS[family]], ["interval"]))
        body = f"type {_ADDRESS[family]}; flags interval;"
        sets[nodes_set(family)] = (body, _set_mark([_ADDRESS[family]], ["interval"]))
        for inner in (4, 6):
            body = f"typeof {_IP[family]} saddr . {_INNER_SOURCE[inner]}; flags interval;"
            sets[peers_set(family, inner)] = (body, _set_mark([_ADDRESS[family], "integer"], ["interval"]))
    return sets


def _declarations() -> list[tuple[str, str]]:
    return [(name, body) for name, (body, _) in _sets().items()]


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
    return "clustermesh " + hashlib.sha256(f"{chain} {text}".encode()).hexdigest()[:12]


def _hook_mark(base: tuple[str, str, int] | None) -> str:
    return " ".join(map(str, base)) if base else ""


def _set_mark(kinds: Iterable[str], flags: Iterable[str]) -> str:
    return f"{' . '.join(kinds)} {','.join(flags)}"


def _binding(outer: str, low: int, high: int) -> str:
    return f"{outer} . {low:#x}" if low == high else f"{outer} . {low:#x}-{high:#x}"


def _element(item: Any) -> str:
    """An element of a JSON listing in the canonical form of ``prefix_element`` and ``binding_element``."""
    if isinstance(item, str):
        return item
    if "elem" in item:  # with a comment or counter: somebody else's, kept as it is
        return _element(item["elem"]["val"])
    if "prefix" in item:
        return f"{item['prefix']['addr']}/{item['prefix']['len']}"
    if "concat" in item:
        outer, inner = item["concat"]
        low, high = inner["range"] if isinstance(inner, dict) and "range" in inner else (inner, inner)
        return _binding(_element(outer), _integer(low), _integer(high))
    return "-".join(map(str, item["range"]))


def _integer(value: int | str) -> int:
    return value if isinstance(value, int) else int(value, 0)
