"""From remote nodes to kernel objects: the pure heart of the agent.

Per remote node and inner family one FDB entry, one permanent neighbour and one nexthop object; per prefix one route by
that nexthop. A node that moves is one FDB entry rewritten, however many prefixes it has. Nothing here depends on
order, time or history: the same inputs give the same objects after any restart, so a restart changes nothing.

``Overlay.plan`` makes the whole plan. ``Overlay.change`` carries single remote nodes over into it, where they touch
nothing that another node claims; the result is the same as that of a whole plan, at the cost of those nodes alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, TypeVar

from clustermeshd.kernel import nftables, nftsets
from clustermeshd.kernel.state import (
    Changes,
    Delta,
    Element,
    FdbEntry,
    HostAddress,
    KernelState,
    Marked,
    Neighbour,
    Nexthop,
    NftChange,
    Packed,
    Route,
    Rule,
    Value,
    hold,
    keyed,
)
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.model.addresses import Point, Prefix, point_of, prefix_of
from clustermeshd.model.settings import Dataplane
from clustermeshd.plan.overlay_base import Base, Site
from clustermeshd.plan.overlay_claims import (
    Peer,
    Problem,
    admit,
    by_precedence,
    local_conflict,
    parse_peer,
)
from clustermeshd.plan.overlay_index import Claims, hashed_id, nexthop_ids, owners
from clustermeshd.plan.overlay_local import LocalNode
from clustermeshd.plan.overlay_parts import Bound, Maker, Part, bound_elements, local_elements, remote_elements

_FAMILIES = (4, 6)
ValueT = TypeVar("ValueT", bound=Value)


class Change(NamedTuple):
    """A remote node before and after; None where there was or is none."""

    old: RemoteNode | None
    new: RemoteNode | None


class PeerCount(NamedTuple):
    """What one remote cluster amounts to on this node."""

    overlay_routing_mode: str
    nodes: int = 0  # with overlay
    reached: int = 0  # those of them that have objects; the others have a problem
    routes: int = 0


@dataclass(frozen=True, slots=True)
class Desired:
    """The kernel as it should be, with what was refused and why."""

    marked: Marked
    problems: tuple[Problem, ...]
    peers: Mapping[str, PeerCount] = field(default_factory=dict)  # by RemoteClusterConfiguration
    owners: Mapping[int, str] = field(default_factory=dict)  # that by nexthop id
    bases: Mapping[str, Base] = field(default_factory=dict)  # by device


def desired(local: LocalNode, remotes: Iterable[RemoteNode], settings: Dataplane, actual: KernelState) -> Desired:
    """All kernel objects of this node. ``actual`` tells where the underlay is and which numbers others use."""
    return Overlay(settings).plan(local, remotes, actual)


class Overlay:
    """The plan of one node, kept so that it can be changed piece by piece."""

    def __init__(self, settings: Dataplane) -> None:
        self._settings = settings
        self._forget()

    def _forget(self) -> None:
        self._local: LocalNode | None = None
        self._maker = Maker()
        self._has_foreign_routes = False
        self._bases: dict[int, Base] = {}
        self._local_prefixes: tuple[Prefix, ...] = ()
        self._claims = Claims()
        self._modes: dict[str, str] = {}
        self._members: Counter[str] = Counter()  # remote nodes by cluster
        self._nodes: Counter[str] = Counter()  # those with overlay
        self._reached: Counter[str] = Counter()  # those that have objects
        self._routes: Counter[str] = Counter()
        self._present: Counter[int] = Counter()  # remote nodes by inner family
        self._on_device: Counter[int] = Counter()  # those with overlay
        self._families: frozenset[int] = frozenset()  # inner families at the last whole plan
        self._own_points: frozenset[Point] = frozenset()
        self._nexthops: dict[object, Nexthop] = {}
        self._fdb: dict[object, FdbEntry] = {}
        self._neighbours: dict[object, Neighbour] = {}
        self._routed: dict[object, Route] = {}
        self._elements: dict[str, set[Element]] = {}
        self._owners: dict[int, str] = {}
        self._table = nftables.desired_table((), {}, self._settings)
        self._odd_ids: frozenset[int] = frozenset()  # ids that are not, or cannot be, what the hash alone gives
        self._has_foreign_nft = False
        self._problems: tuple[Problem, ...] = ()
        self._addresses: list[Packed] = []

    # ---- the whole plan

    def plan(
        self,
        local: LocalNode,
        remotes: Iterable[RemoteNode],
        actual: KernelState,
        mtus: Mapping[tuple[str, str, int], int] | None = None,
    ) -> Desired:
        """The whole plan, from nothing.

        ``mtus``: by cluster, node and inner family, the largest packet in bytes that passes where full ones do not.
        """
        before = Marked(nexthops=self._nexthops, fdb=self._fdb, neighbours=self._neighbours, routes=self._routed)
        self._forget()
        problems: list[Problem] = []
        peers = self._accepted(local, remotes, problems)
        if not peers:
            return Desired(Marked(), tuple(problems))
        self._local = local
        self._local_prefixes = tuple(map(prefix_of, local.pod_cidrs))
        nodes = {address for peer in peers if peer.has_overlay for address in peer.addresses}
        self._own_points = frozenset(map(point_of, local.addresses))
        prefixes = admit(peers, self._local_prefixes, nodes | self._own_points, problems)
        if not local.pod_cidrs:
            message = "this node has no pod CIDR; pods cannot keep their address"
            problems.append(Problem("NoPodCIDR", local.name, message))
        members = Counter(
            family for peer in peers if peer.has_overlay for family in {p.family for p in prefixes[peer.name]}
        )
        site = Site(local, self._settings, actual, problems)
        self._bases = {family: base for family in _FAMILIES if (base := site.base(family, members[family]))}
        self._maker = Maker(self._bases, self._own_points, dict(mtus or {}))
        self._has_foreign_routes = bool(actual.around.foreign_routes)
        bound = self._add_peers(peers, prefixes, problems, actual, before)
        self._set_elements([p for own in prefixes.values() for p in own], bound)
        self._has_foreign_nft = actual.around.has_foreign_nft
        self._families = frozenset(self._present)
        self._addresses = site.addresses(self._families)
        self._problems = tuple(dict.fromkeys(problems))
        self._table = nftables.desired_table(
            [base.tunnel for base in self._bases.values()], self._elements, self._settings
        )
        return self._desired()

    def _desired(self) -> Desired:
        bases = list(self._bases.values())
        marked = Marked(
            devices=keyed(base.device for base in bases),
            addresses=keyed(map(HostAddress, self._addresses)),
            nexthops=self._nexthops,
            fdb=self._fdb,
            neighbours=self._neighbours,
            routes=self._routed,
            rules=keyed(Rule(base.family, self._settings.rule_priority, self._settings.table) for base in bases),
            nft=None if self._has_foreign_nft else self._table,
        )
        named = {base.device.name: base for base in bases}
        return Desired(marked, self._problems, self._counts(), self._owners, named)

    def _accepted(self, local: LocalNode, remotes: Iterable[RemoteNode], problems: list[Problem]) -> list[Peer]:
        """Remote nodes in order of precedence, without our own and without second copies of one node."""
        peers: list[Peer] = []
        seen: dict[tuple[str, str], str] = {}
        waiting = by_precedence(remotes)
        waiting.reverse()
        while waiting:
            peer = parse_peer(waiting.pop(), problems)
            self._claims.add(peer)
            identity = (peer.cluster_id, peer.node)
            if not peer.cluster_id or peer.cluster_id == local.cluster_id:
                problems.append(
                    Problem("OwnCluster", peer.name, f"cluster id {peer.cluster_id!r} is none of a remote")
                )
            elif identity in seen:
                problems.append(Problem("DuplicateNode", peer.name, f"the same node as {seen[identity]}"))
            else:
                seen[identity] = peer.name
                peers.append(peer)
        self._claims.settle()
        return peers

    def _add_peers(
        self,
        peers: list[Peer],
        prefixes: Mapping[str, tuple[Prefix, ...]],
        problems: list[Problem],
        actual: KernelState,
        before: Marked,
    ) -> list[Bound]:
        taken = actual.around.foreign_nexthops
        ids, odd = nexthop_ids((peer for peer in peers if peer.has_overlay), self._bases, taken)
        self._odd_ids = taken | odd
        gateways: set[tuple[int, Packed]] = set()
        macs = {base.device.mac for base in self._bases.values()}
        foreign = actual.around.foreign_routes
        bound: list[Bound] = []
        peers.reverse()
        while peers:
            peer = peers.pop()  # each makes room for what comes of the next: 0.26 KiB a node, by agent-memory
            is_known = peer.mac in macs
            part = self._maker.part(
                peer, prefixes[peer.name], ids, problems, gateways=gateways, has_known_mac=is_known
            )
            macs.add(peer.mac)
            if foreign:
                part = self._without(part, foreign, peer, problems)
            self._count(peer, part, 1)
            self._keep(part, before)
            bound += part.bound
        return bound

    def _without(self, part: Part, foreign: frozenset[object], peer: Peer, problems: list[Problem]) -> Part:
        for route in part.routes:
            if route.key in foreign:
                where = Prefix(4 if len(route.prefix) == 4 else 6, int.from_bytes(route.prefix, "big"), route.length)
                message = f"table {self._settings.table} holds a foreign route to {where}"
                message += "; remove it or choose another table (setting table)"
                problems.append(Problem("ForeignRoute", peer.name, message))
        return part._replace(routes=[route for route in part.routes if route.key not in foreign])

    # ---- what the plan holds

    def _keep(self, part: Part, before: Marked) -> None:
        """``before``: of the last plan; of equal values those, so that memory holds them once."""
        hold(self._nexthops, part.nexthops, before.nexthops)
        hold(self._fdb, part.fdb, before.fdb)
        hold(self._neighbours, part.neighbours, before.neighbours)
        hold(self._routed, part.routes, before.routes)
        self._own(part)

    def _own(self, part: Part) -> None:
        for number in part.owned:
            self._owners[number] = part.peer.cluster_name

    def _count(self, peer: Peer, part: Part, step: int) -> None:
        name = peer.cluster_name
        self._members[name] += step
        self._modes[name] = _mode(peer)
        if not self._members[name]:
            del self._modes[name]
        for family in {prefix.family for prefix in part.prefixes}:
            self._present[family] += step
            self._on_device[family] += step if peer.has_overlay else 0
        self._nodes[name] += step if peer.has_overlay else 0
        self._reached[name] += step if part.owned else 0
        self._routes[name] += step * len(part.routes)

    def _counts(self) -> dict[str, PeerCount]:
        return {
            name: PeerCount(mode, self._nodes[name], self._reached[name], self._routes[name])
            for name, mode in self._modes.items()
        }

    def _set_elements(self, remote: Collection[Prefix], bound: Iterable[Bound]) -> None:
        """Elements over all remote nodes: a prefix inside another one, or a shared address, is one element."""
        self._elements = {name: set() for name in nftsets.FIXED}
        for name, element in local_elements(self._local_prefixes):
            self._elements[name].add(element)
        shared: dict[tuple[int, Packed], list[Prefix]] = {}
        for base, outer, own in bound:
            shared.setdefault((base.family, outer), []).extend(own)
        together = [(self._bases[family], outer, own) for (family, outer), own in shared.items()]
        for name, element in chain(remote_elements(remote), bound_elements(together)):
            self._elements.setdefault(name, set()).add(element)

    # ---- single remote nodes

    def change(self, changed: Sequence[Change]) -> tuple[Desired, Changes] | None:
        """The plan with those nodes changed, and what is different in it; None where that takes a whole plan.

        That is where a node, as it was or as it is, has a problem, claims something that another one claims too, is
        the first or the last that needs a device, or changes the mode of its cluster. A whole plan must follow then.
        """
        if self._local is None or self._has_foreign_routes:
            return None
        before = [self._lift(change.old) for change in changed if change.old is not None]
        if None in before:
            return None
        after = [self._lay(change.new) for change in changed if change.new is not None]
        if None in after or not self._is_standing():
            return None
        changes = self._difference([part for part in before if part], [part for part in after if part])
        return None if changes is None else (self._desired(), changes)

    def _lift(self, remote: RemoteNode) -> Part | None:
        """Take a node out of the plan; None where others may have to move for it."""
        peer, part = self._alone(remote)
        self._claims.remove(peer)
        if part is None or self._claims.meets(peer):
            return None
        self._count(peer, part, -1)
        return part

    def _lay(self, remote: RemoteNode) -> Part | None:
        """Put a node into the plan; None where others have a say in it."""
        peer, part = self._alone(remote)
        if part is None or self._claims.meets(peer) or self._modes.get(peer.cluster_name, _mode(peer)) != _mode(peer):
            return None
        self._claims.insert(peer)
        self._count(peer, part, 1)
        return part

    def _alone(self, remote: RemoteNode) -> tuple[Peer, Part | None]:
        """A node's objects as if it were the only one; None where it has a problem of its own."""
        problems: list[Problem] = []
        peer = parse_peer(remote, problems)
        assert self._local is not None  # noqa: S101  # a plan is there
        own = sorted(self._own_points)
        is_contested = (
            bool(problems)
            or not peer.cluster_id
            or peer.cluster_id == self._local.cluster_id
            or any(local_conflict(prefix, self._local_prefixes, own) for prefix in peer.prefixes)
            or any(base.device.mac == peer.mac for base in self._bases.values())
            or any(self._needs(family) and family not in self._bases for family in _overlay_families(peer))
        )
        if is_contested:
            return peer, None
        ids = {owner: hashed_id(owner) for owner in owners([peer], self._bases)}
        if any(number in self._odd_ids for number in ids.values()):
            return peer, None
        part = self._maker.part(peer, peer.prefixes, ids, problems, gateways=set(), has_known_mac=False)
        return peer, None if problems else part

    def _needs(self, family: int) -> bool:
        return any(prefix.family == family for prefix in self._local_prefixes)

    def _is_standing(self) -> bool:
        """Whether devices, tunnel addresses and table are still those that are needed."""
        present = {family for family, count in self._present.items() if count}
        has_devices = all(self._on_device[family] > 0 for family in self._bases)
        return bool(self._modes) and present == self._families and has_devices

    def _difference(self, before: Sequence[Part], after: Sequence[Part]) -> Changes | None:
        """Carries the parts over into the plan and says what that changes; None where it takes other sets."""
        for part in before:
            for number in part.owned:
                self._owners.pop(number, None)
        for part in after:
            self._own(part)
        removed, added = (self._elements_of(parts) for parts in (before, after))
        if not added.keys() <= self._elements.keys():
            return None
        remove = {name: found - added.get(name, set()) for name, found in removed.items()}
        add = {name: found - removed.get(name, set()) for name, found in added.items()}
        for name, elements in remove.items():
            self._elements[name] -= elements
        for name, elements in add.items():
            self._elements[name] |= elements
        if any(not self._elements[name] for name in remove if name not in nftsets.FIXED):
            return None
        remove, add = ({name: found for name, found in half.items() if found} for half in (remove, add))
        return Changes(
            nexthops=_carry(self._nexthops, (p.nexthops for p in before), (p.nexthops for p in after)),
            fdb=_carry(self._fdb, (p.fdb for p in before), (p.fdb for p in after)),
            neighbours=_carry(self._neighbours, (p.neighbours for p in before), (p.neighbours for p in after)),
            routes=_carry(self._routed, (p.routes for p in before), (p.routes for p in after)),
            nft=NftChange(self._table, add=add, remove=remove) if add or remove else None,
        )

    def _elements_of(self, parts: Iterable[Part]) -> dict[str, set[Element]]:
        found: dict[str, set[Element]] = {}
        for part in parts:
            for name, element in (*remote_elements(part.prefixes), *bound_elements(part.bound)):
                found.setdefault(name, set()).add(element)
        return found


def _carry(
    held: dict[object, ValueT], before: Iterable[Iterable[ValueT]], after: Iterable[Iterable[ValueT]]
) -> Delta[ValueT]:
    """Exchange values in ``held``; what that changes."""
    old = keyed(chain.from_iterable(before))
    new = keyed(chain.from_iterable(after))
    for key in old:
        if key not in new:
            del held[key]
    held.update(new)
    put = tuple(value for key, value in new.items() if old.get(key) != value)
    return Delta(put, tuple(value for key, value in old.items() if key not in new))


def _mode(peer: Peer) -> str:
    return "Enabled" if peer.has_overlay else "Disabled"


def _overlay_families(peer: Peer) -> set[int]:
    return {prefix.family for prefix in peer.prefixes} if peer.has_overlay else set()
