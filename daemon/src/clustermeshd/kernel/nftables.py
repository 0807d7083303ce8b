"""Our nftables table: NAT exemption, tunnel source, MSS clamp, and the guard of the tunnel port.

* ``exempt`` (nat, before every CNI's masquerade): a local pod keeps its address towards remote pods by a snat to its
  own address, which ends NAT for the connection whatever rule would come later. What else leaves by a mesh device gets
  the tunnel address, because nothing else of this node is routed back.
* ``clamp``: TCP segments that fit the tunnel, both ways (``mss``), for paths that drop "fragmentation needed".
* ``guard``: a tunnel packet (``outer``) is dropped unless its outer source is a known remote node and its inner source
  belongs to that very node (``inner``); pods may not send tunnel packets themselves (their node's masquerade would
  lend them its address); what ``arrived`` by the tunnel may go to pods of this node or its tunnel address only.
* ``begin`` (nat, before every proxy): of what begins in the tunnel, the node's own addresses (``host``) take a ping
  and probes of paths, nothing else. A nat chain meets the first packet of a connection only, so answers to the node
  and ICMP errors pass, and packets between pods pay nothing for it.

No rule accepts: every packet still meets the CNI's and the host's own rules. Every packet of the node meets what hangs
at another hook, so there stands only the question whether a packet is one for the chains behind it.

An empty chain seals the rules: its name is a digest of what they do, as the kernel gives them back. Rules that it does
not fit were edited, perhaps while no agent ran, and are written again.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from os.path import commonprefix
from typing import Final

from clustermeshd.kernel.elements import Sets
from clustermeshd.kernel.libnftables import Nft
from clustermeshd.kernel.netlink import Netlink, NetlinkError
from clustermeshd.kernel.nftdump import NFNETLINK, Dump
from clustermeshd.kernel.nftsets import (
    FIXED,
    IP,
    bound_match,
    local_set,
    nodes_set,
    peers_inner,
    remote_match,
    set_kind,
)
from clustermeshd.kernel.state import BaseChain, Element, NftChange, NftTable, Packed, address_text
from clustermeshd.model.errors import Retriable
from clustermeshd.model.settings import Dataplane

_CHAINS: Final = {
    "exempt": ("nat", "postrouting", 90),  # srcnat - 10
    "clamp": ("filter", "forward", -150),  # mangle
    "mss": None,
    "guard": ("filter", "prerouting", -300),  # raw
    "outer": None,
    "inner": None,
    "arrived": None,
    "begin": ("nat", "prerouting", -110),  # dstnat - 10
    "host": None,
}
_ETHERTYPE: Final = {4: "0x0800", 6: "0x86dd"}
_HOOKS: Final = {"prerouting": 0, "forward": 2, "postrouting": 4}  # NF_INET_*
_BATCH: Final = 5000  # elements per command
MARK: Final = "clustermesh.io"  # comment of the table
_RULE_MARK: Final = "clustermesh "
_SEAL: Final = "seal_"
_READ_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What the rules must know of one inner family's device. ``source`` is the tunnel address, if the node has one."""

    family: int
    device: str
    vni: int
    mtu: int
    source: Packed | None


def desired_table(tunnels: Iterable[Tunnel], elements: Mapping[str, Set[Element]], settings: Dataplane) -> NftTable:
    """The table as it should be: rules from the devices, sets and elements by set name."""
    kinds = {name: kind for name in sorted({*FIXED, *elements}) if (kind := set_kind(name)) is not None}
    rules = _rules(sorted(tunnels, key=lambda tunnel: tunnel.family), kinds, settings)
    return NftTable(
        chains=frozenset(
            (name, BaseChain(base[0], _HOOKS[base[1]], base[2]) if base else None) for name, base in _CHAINS.items()
        ),
        sets=frozenset((name, kind.mark) for name, kind in kinds.items()),
        rules=tuple((chain, _rule_mark(chain, text)) for chain, text in rules),
        elements={name: elements.get(name, frozenset()) for name in kinds},
        texts=tuple(text for _, text in rules),
    )


class Table:
    """Our table in the kernel of the thread that makes this."""

    def __init__(self, settings: Dataplane) -> None:
        self._name = settings.nft_table
        self._nft = Nft()
        self._netlink = Netlink(NFNETLINK)
        self._sets = Sets(self._netlink, settings.nft_table)
        self._dump = Dump(self._netlink, settings.nft_table)
        self.is_foreign = False  # at the last look, a table of our name was not ours
        self.dropped: Mapping[str, int] = {}  # at the last look, packets by chain

    @property
    def ports(self) -> frozenset[int]:
        """Netlink port ids of our writes; the library's socket is the first of the process and has its number."""
        return frozenset({self._netlink.port, os.getpid()})

    def close(self) -> None:
        self._netlink.close()
        self._nft.close()

    def observe(self, expected: NftTable | None = None) -> NftTable | None:
        """The table as it is; None where there is none. Elements found as ``expected`` are the very same set.

        Read again where a set went while it was being read, as a dump is that the kernel calls interrupted.
        """
        for _ in range(_READ_ATTEMPTS):
            try:
                return self._observe(expected)
            except NetlinkError as error:
                if error.code != errno.ENOENT:
                    raise
        raise Retriable(f"nftables table {self._name} changed during each of {_READ_ATTEMPTS} reads")

    def _observe(self, expected: NftTable | None) -> NftTable | None:
        comment = self._dump.comment()
        if comment is None:
            self.is_foreign = False
            return None
        chains, sets, (rules, packets) = self._dump.chains(), self._dump.sets(), self._dump.rules()
        is_old = any(mark.startswith(_RULE_MARK) for _, mark, _ in rules)  # up to 0.1 only the rules were marked
        self.is_foreign = bool(chains or sets) and not is_old and MARK.encode() not in comment
        if self.is_foreign:
            return None
        self.dropped = packets  # nothing else is counted
        ours = {name: kind for name, mark in sets.items() if (kind := set_kind(name)) and kind.mark == mark}
        likely = expected.elements if expected is not None else {}
        return NftTable(
            chains=frozenset(found for found in chains.items() if not found[0].startswith(_SEAL)),
            sets=frozenset(sets.items()),
            rules=_in_chain_order([(chain, mark) for chain, mark, _ in rules]),
            is_sealed=_seal(rules) in chains,
            elements={
                name: self._sets.read(name, is_interval=kind.is_interval, expected=likely.get(name, frozenset()))
                for name, kind in ours.items()
            },
        )

    def former(self) -> list[str]:
        """Names of other tables that bear our mark: ours, by an earlier setting."""
        return [name for name, comment in self._dump.others().items() if comment == MARK]

    def remove_former(self, name: str) -> None:
        self._nft.run(f"delete table inet {name}\n")

    def confirm(self, wanted: Mapping[str, Set[Element]]) -> None:
        """The last look found these elements."""
        self._sets.memory.confirm(wanted)

    def forget(self) -> None:
        self._sets.memory.forget()

    def change(self, change: NftChange) -> None:
        """Carry out a change, rules and what is replaced with them in one transaction.

        Sets are filled before: the kernel shows a new interval set some time after the rules of its transaction, and a
        set that is not there yet lets nothing through.
        """
        table, name = change.table, self._name
        if table is None:
            self._nft.run(f"delete table inet {name}\n")
        elif change.is_new:
            self._run([_table_command(name), *_set_commands(name, table.elements)])
            self._sets.change({}, change.add, _intervals(change.add))
            self._run([*_chain_commands(name), *_rule_commands(name, table)])
            self._put_seal()
        else:
            replaced = set(change.add_sets) & set(change.remove_sets)
            self._run(_set_commands(name, (added for added in change.add_sets if added not in replaced)))
            add = {changed: elements for changed, elements in change.add.items() if changed not in replaced}
            self._sets.change(change.remove, add, _intervals({**change.remove, **add}))
            if change.write_rules:
                self._run(_rewrite_commands(name, table, change, replaced))
                self._put_seal()
            self._run([f"delete set inet {name} {gone}" for gone in change.remove_sets if gone not in replaced])

    def _run(self, commands: Collection[str]) -> None:
        if commands:
            self._nft.run("\n".join(commands) + "\n")

    def _put_seal(self) -> None:
        """Seal the rules as they have just been written."""
        rules, name = self._dump.rules()[0], self._name
        old = [chain for chain in self._dump.chains() if chain.startswith(_SEAL)]
        gone = [f"{verb} chain inet {name} {chain}" for chain in old for verb in ("flush", "delete")]
        self._run([*gone, f"add chain inet {name} {_seal(rules)}"])


def _seal(rules: Iterable[tuple[str, str, str]]) -> str:
    """Name of the chain that says what the rules do: of each its chain, mark and digest, in order."""
    return _SEAL + hashlib.sha256(repr(list(rules)).encode()).hexdigest()[:16]


def _table_command(name: str) -> str:
    return f'add table inet {name} {{ comment "{MARK}"; }}'


def _set_commands(name: str, sets: Iterable[str]) -> list[str]:
    return [f"add set inet {name} {found} {{ {kind.body} }}" for found in sets if (kind := set_kind(found))]


def _intervals(sets: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in sets if (kind := set_kind(name)) and kind.is_interval)


def _chain_commands(name: str) -> list[str]:
    hooks = {
        chain: f" {{ type {base[0]} hook {base[1]} priority {base[2]}; policy accept; }}" if base else ""
        for chain, base in _CHAINS.items()
    }
    return [f"add chain inet {name} {chain}{hook}" for chain, hook in hooks.items()]


def _rewrite_commands(name: str, table: NftTable, change: NftChange, replaced: Set[str]) -> list[str]:
    """All rules anew, and with them chains and sets that are of another kind or should not be there."""
    gone = change.remove_chains
    kept = [command for chain, command in zip(_CHAINS, _chain_commands(name), strict=True) if chain not in gone]
    return [
        *kept,  # where one is missing
        *(f"flush chain inet {name} {chain}" for chain in {**_CHAINS, **dict.fromkeys(gone)}),
        *(f"delete chain inet {name} {chain}" for chain in gone),
        *(f"delete set inet {name} {found}" for found in sorted(replaced)),
        *_set_commands(name, sorted(replaced)),
        *_element_commands(name, {found: change.add.get(found, ()) for found in sorted(replaced)}),
        *_chain_commands(name),
        *_rule_commands(name, table),
    ]


def _rule_commands(name: str, table: NftTable) -> list[str]:
    return [
        f'add rule inet {name} {chain} {text} comment "{mark}"'
        for (chain, mark), text in zip(table.rules, table.texts, strict=True)
    ]


def _element_commands(name: str, changed: Mapping[str, Collection[Element]]) -> list[str]:
    return [
        f"add element inet {name} {set_name} {{ {', '.join(texts[start : start + _BATCH])} }}"
        for set_name, elements in changed.items()
        if (kind := set_kind(set_name))
        for texts in [[kind.text(element) for element in elements]]
        for start in range(0, len(texts), _BATCH)
    ]


def _rules(tunnels: Iterable[Tunnel], sets: Iterable[str], settings: Dataplane) -> list[tuple[str, str]]:
    """All rules as (chain, text), chain by chain."""
    tunnels = list(tunnels)
    chains: dict[str, list[str]] = {chain: [] for chain in _CHAINS}
    chains["guard"].append(f"udp dport {settings.port} jump outer")
    # not "local": broadcast, multicast and anycast are delivered too
    chains["outer"].append("fib daddr type != unicast goto inner")
    for family in (4, 6):
        ip = IP[family]
        local = f"@{local_set(family)}"
        chains["exempt"] += [
            f"{ip} saddr {local} {match} snat {ip} to {ip} saddr"
            for name in sets
            if (match := remote_match(name, family))
        ]
        chains["outer"].append(f"{ip} saddr {local} {ip} daddr @{nodes_set(family)} counter drop")
    if tunnels:
        from_tunnel = f'iifname "{_pattern([tunnel.device for tunnel in tunnels])}"'
        chains["clamp"].append("tcp flags syn jump mss")
        chains["guard"].append(f"{from_tunnel} jump arrived")
        chains["begin"].append(f"{from_tunnel} ct state new fib daddr type != unicast jump host")
        chains["host"] += ["icmp type echo-request return", "icmpv6 type echo-request return"]
        if settings.probe_port:
            chains["host"].append(f"udp dport {settings.probe_port} return")
    for tunnel in tunnels:
        ip, local = IP[tunnel.family], f"@{local_set(tunnel.family)}"
        device = f'"{tunnel.device}"'
        mss = tunnel.mtu - (40 if tunnel.family == 4 else 60)
        chains["mss"] += [
            f"oifname {device} tcp option maxseg size set rt mtu",
            f"iifname {device} tcp option maxseg size > {mss} tcp option maxseg size set {mss}",
        ]
        own = ""
        if tunnel.source:
            source = address_text(tunnel.source)
            chains["exempt"].append(f"oifname {device} {ip} saddr != {local} snat {ip} to {source}")
            own = f" {ip} daddr != {source}"
        chains["arrived"].append(f"iifname {device} {ip} daddr != {local}{own} counter drop")
        chains["host"].append(f"iifname {device} counter drop")
        chains["inner"] += [
            f"@th,96,24 {tunnel.vni} @th,224,16 {_ETHERTYPE[tunnel.family]} {match} return"
            for name in sets
            if peers_inner(name) == tunnel.family and (match := bound_match(name))
        ]
    chains["inner"].append("counter drop")
    return [(chain, text) for chain, texts in chains.items() for text in texts]


def _pattern(devices: Sequence[str]) -> str:
    """Matches all of these names, and perhaps others: a first look."""
    return devices[0] if len(devices) == 1 else f"{commonprefix(devices)}*"  # noqa: RUF071  # no paths


def _in_chain_order(rules: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    order = {chain: position for position, chain in enumerate(_CHAINS)}
    return tuple(sorted(rules, key=lambda rule: order.get(rule[0], len(order))))


def _rule_mark(chain: str, text: str) -> str:
    return _RULE_MARK + hashlib.sha256(f"{chain} {text}".encode()).hexdigest()[:12]
