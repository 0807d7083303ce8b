"""What the kernel holds for us, as values: the desired state and the observed one have the same type.

Every value has a ``key`` (what identifies the object to the kernel) and compares by all fields, so that a difference
is dictionary work. The four kinds that come in tens of thousands are structs without a place in the garbage collector:
made and compared ten times as fast as data classes, and smaller than tuples.
Marks (table, protocol, device names) are not repeated in each value: they come from ``model.settings.Dataplane`` and
hold for all of them. What bears a mark of earlier settings is a leftover (``Former...``, or a device), and goes; or,
where it is the same object to the kernel, a value unlike any that is wanted, so that it is written anew.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

KINDS: Final = ("devices", "addresses", "nexthops", "fdb", "neighbours", "routes", "rules", "leftovers")
Packed: TypeAlias = bytes  # an address as it stands in a packet: 4 or 16 bytes
Element: TypeAlias = bytes  # of an nftables set: its key; of an interval set, its lowest key and then its highest


def family_of(address: Packed) -> int:
    """4 or 6."""
    return 4 if len(address) == 4 else 6


def address_text(address: Packed) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


class Value(Protocol):
    """What every kind of kernel object offers to ``plan.diff`` and to the log."""

    @property
    def key(self) -> object: ...
    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Device:
    """A VXLAN device for one inner family. The last three fields are as we want them unless somebody changed them."""

    name: str
    vni: int
    port: int
    lower: str
    local: Packed
    mac: bytes
    mtu: int
    is_up: bool = True
    is_marked: bool = True
    learns: bool = False

    @property
    def key(self) -> str:
        return self.name

    def __str__(self) -> str:
        state = "up" if self.is_up else "down"
        return (
            f"device {self.name} vni {self.vni} port {self.port} dev {self.lower} local {address_text(self.local)} "
            f"mac {mac_text(self.mac)} mtu {self.mtu} {state}"
        )

    def needs_rebuild(self, actual: Device) -> bool:
        """Whether the kernel cannot turn ``actual`` into this one in place."""
        return (self.vni, self.port, len(self.local)) != (actual.vni, actual.port, len(actual.local))


@dataclass(frozen=True, slots=True)
class HostAddress:
    """A tunnel address on ``lo``, as /32 or /128. ``is_marked``: by our protocol, not that of earlier settings."""

    address: Packed
    is_marked: bool = True

    @property
    def key(self) -> Packed:
        return self.address

    def __str__(self) -> str:
        return f"address {address_text(self.address)} dev lo"


class Nexthop(msgspec.Struct, frozen=True, gc=False):
    """One remote node for one inner family. Without device where it bears the protocol of earlier settings."""

    id: int
    device: str
    gateway: Packed

    @property
    def key(self) -> int:
        return self.id

    def __str__(self) -> str:
        return f"nexthop {self.id} via {address_text(self.gateway)} dev {self.device}"


class FdbEntry(msgspec.Struct, frozen=True, gc=False):
    """Where frames for a remote node's MAC go on the underlay."""

    device: str
    mac: bytes
    destination: Packed

    @property
    def key(self) -> tuple[str, bytes]:
        return self.device, self.mac

    def __str__(self) -> str:
        return f"fdb {mac_text(self.mac)} dst {address_text(self.destination)} dev {self.device}"


class Neighbour(msgspec.Struct, frozen=True, gc=False):
    """Which MAC answers for a gateway: permanent, so that nothing is ever asked on the wire.

    Without MAC where it bears the protocol of earlier settings.
    """

    device: str
    address: Packed
    mac: bytes

    @property
    def key(self) -> tuple[str, Packed]:
        return self.device, self.address

    def __str__(self) -> str:
        return f"neighbour {address_text(self.address)} lladdr {mac_text(self.mac)} dev {self.device}"


class Route(msgspec.Struct, frozen=True, gc=False):
    """A remote prefix by nexthop id. ``source`` is the tunnel address, ``mtu`` 0 where none is set.

    Ours have the default metric; another metric makes another route, which is somebody's mistake and goes. Without
    nexthop objects a route has its own gateway, and its metric is the id that the nexthop would have: IPv4 hashes
    routes by device and metric, so that equal metrics on one device would make programming quadratic.
    """

    prefix: Packed
    length: int
    nexthop: int
    source: Packed | None
    mtu: int
    metric: int = -1  # -1: the family's default
    device: str = ""  # this and the gateway only where the kernel has no nexthop objects
    gateway: Packed = b""

    @property
    def key(self) -> tuple[Packed, int, int]:
        return self.prefix, self.length, self.metric

    def __str__(self) -> str:
        source = f" src {address_text(self.source)}" if self.source else ""
        via = f"via {address_text(self.gateway)} dev {self.device}" if self.gateway else f"nhid {self.nexthop}"
        return f"route {address_text(self.prefix)}/{self.length} {via}{source} mtu {self.mtu}"


@dataclass(frozen=True, slots=True)
class Rule:
    """The policy rule that leads a family to our table."""

    family: int
    priority: int
    table: int

    @property
    def key(self) -> tuple[int, int, int]:
        return self.family, self.priority, self.table

    def __str__(self) -> str:
        return f"rule v{self.family} priority {self.priority} table {self.table}"


class FormerRoute(NamedTuple):
    """A route of ours with the table or protocol of earlier settings."""

    route: Route
    table: int
    protocol: int

    @property
    def key(self) -> tuple[object, int, int]:
        return self.route.key, self.table, self.protocol

    def __str__(self) -> str:
        return f"{self.route} table {self.table} proto {self.protocol}"


class FormerRule(NamedTuple):
    """A rule of ours with the protocol, or the table and priority, of earlier settings."""

    rule: Rule
    protocol: int

    @property
    def key(self) -> tuple[object, int]:
        return self.rule.key, self.protocol

    def __str__(self) -> str:
        return f"{self.rule} proto {self.protocol}"


class FormerTable(NamedTuple):
    """An nftables table of ours with the name of earlier settings."""

    name: str

    @property
    def key(self) -> str:
        return f"nftables {self.name}"

    def __str__(self) -> str:
        return f"nftables table {self.name}"


Leftover: TypeAlias = Device | FormerRoute | FormerRule | FormerTable


class BaseChain(NamedTuple):
    """What defines an nftables chain at a hook."""

    type: str
    hook: int  # NF_INET_*
    priority: int
    policy: int = 1  # NF_ACCEPT


@dataclass(frozen=True, slots=True)
class NftTable:
    """Our nftables table: rules by chain, and sets with their elements as ``kernel.elements`` packs them.

    ``rules`` holds (chain, mark) in order, where the mark is a digest of the rule's text and stands as its comment;
    ``chains`` and ``sets`` likewise carry what defines them. Reading rules back as text is no test of equality, since
    every release prints them differently.
    """

    chains: frozenset[tuple[str, BaseChain | None]]
    sets: frozenset[tuple[str, tuple[int, int]]]
    rules: tuple[tuple[str, str], ...]
    elements: Mapping[str, Set[Element]]
    is_sealed: bool = True  # whether the rules do what they did when they were written
    texts: tuple[str, ...] = field(default=(), compare=False)  # desired only: the rules, in the order of ``rules``


ValueT = TypeVar("ValueT", bound=Value)


def keyed(values: Iterable[ValueT], known: Mapping[object, ValueT] = {}) -> dict[object, ValueT]:
    """By key. Of a value that is equal to a known one the known one is taken, so that memory holds it once."""
    held: dict[object, ValueT] = {}
    hold(held, values, known)
    return held


def hold(held: dict[object, ValueT], values: Iterable[ValueT], known: Mapping[object, ValueT]) -> None:
    """Put values into ``held`` as ``keyed`` does."""
    for value in values:
        key = value.key
        same = known.get(key)
        held[key] = same if same == value else value


def found(values: Callable[[], Iterable[ValueT]], expected: Mapping[object, ValueT]) -> Mapping[object, ValueT]:
    """By key what there is; ``expected`` itself where it is exactly that."""
    seen = set()
    for value in values():
        same = expected.get(value.key)
        if same != value:
            return keyed(values(), expected)
        seen.add(id(same))
    return expected if len(seen) == len(expected) else keyed(values(), expected)


@dataclass(frozen=True, slots=True)
class Marked:
    """All objects that carry our marks, by key. An empty one is what a node looks like after uninstall."""

    devices: Mapping[object, Device] = field(default_factory=dict)
    addresses: Mapping[object, HostAddress] = field(default_factory=dict)
    nexthops: Mapping[object, Nexthop] = field(default_factory=dict)
    fdb: Mapping[object, FdbEntry] = field(default_factory=dict)
    neighbours: Mapping[object, Neighbour] = field(default_factory=dict)
    routes: Mapping[object, Route] = field(default_factory=dict)
    rules: Mapping[object, Rule] = field(default_factory=dict)
    leftovers: Mapping[object, Leftover] = field(default_factory=dict)  # of earlier settings; none is ever wanted
    nft: NftTable | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A network device of the node, whoever's it is."""

    index: int
    name: str
    mtu: int
    kind: str
    is_up: bool


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of the node, on whichever device."""

    address: Packed
    length: int
    link: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is not ours but matters: where the underlay is, and which of our numbers others already use."""

    links: Mapping[str, Link] = field(default_factory=dict)
    addresses: tuple[LocalAddress, ...] = ()
    foreign_devices: frozenset[str] = frozenset()  # carry one of our names and are no VXLAN device
    foreign_routes: frozenset[object] = frozenset()  # keys of routes in our table with another protocol
    foreign_nexthops: frozenset[int] = frozenset()
    forwarding: Mapping[int, bool] = field(default_factory=dict)  # by family; absent where unknown
    rival_vxlans: tuple[Device, ...] = ()  # VXLAN devices of others
    has_foreign_nft: bool = False  # an nftables table of our name is not ours
    has_nexthops: bool = True  # whether this kernel knows nexthop objects (Linux 5.3)


@dataclass(frozen=True, slots=True)
class KernelState:
    """One reading of the kernel."""

    marked: Marked
    around: Surroundings
    dropped: Mapping[str, int] = field(default_factory=dict)  # packets that our nftables rules dropped, by chain

    def without_nodes(self) -> KernelState:
        """Without what comes in tens of thousands; a plan does not depend on it."""
        marked = self.marked
        return KernelState(Marked(devices=marked.devices, addresses=marked.addresses, rules=marked.rules), self.around)


@dataclass(frozen=True, slots=True)
class Delta(Generic[ValueT]):
    """Objects to write (new or changed) and objects to remove."""

    put: tuple[ValueT, ...] = ()
    delete: tuple[ValueT, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.delete)


@dataclass(frozen=True, slots=True)
class NftChange:
    """What to do to our nftables table. ``is_new``: there is none yet.

    A set or chain in both of its lists is replaced, since it is of another kind; the rules are written with it.
    """

    table: NftTable | None  # None: remove it
    is_new: bool = False
    write_rules: bool = False  # and all chains
    remove_chains: tuple[str, ...] = ()
    add_sets: tuple[str, ...] = ()
    remove_sets: tuple[str, ...] = ()
    add: Mapping[str, Collection[Element]] = field(default_factory=dict)
    remove: Mapping[str, Collection[Element]] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.table is None:
            return "nftables table removed"
        if self.is_new:
            return "nftables table written"
        added, removed = (sum(map(len, change.values())) for change in (self.add, self.remove))
        return f"nftables {'rules rewritten, ' if self.write_rules else ''}{added} elements added, {removed} removed"


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between what should be and what is: the only input of ``Kernel.apply``."""

    devices: Delta[Device] = Delta()
    addresses: Delta[HostAddress] = Delta()
    nexthops: Delta[Nexthop] = Delta()
    fdb: Delta[FdbEntry] = Delta()
    neighbours: Delta[Neighbour] = Delta()
    routes: Delta[Route] = Delta()
    rules: Delta[Rule] = Delta()
    leftovers: Delta[Leftover] = Delta()
    nft: NftChange | None = None

    def __bool__(self) -> bool:
        return self.nft is not None or any(delta for _, delta in self.deltas())

    def deltas(self) -> tuple[tuple[str, Delta[Value]], ...]:
        """Kind and delta, in the order in which additions are written."""
        return tuple((kind, getattr(self, kind)) for kind in KINDS)

    def without(self, failures: Collection[Failure]) -> Changes:
        """Those that took, where these failed."""
        if not failures:
            return self
        failed = {(failure.kind, failure.object) for failure in failures}

        def took(kind: str, values: Iterable[Value]) -> tuple[Value, ...]:
            return tuple(value for value in values if (kind, str(value)) not in failed)

        deltas: dict[str, Any] = {
            kind: Delta(took(kind, delta.put), took(kind, delta.delete)) for kind, delta in self.deltas()
        }
        return Changes(**deltas, nft=None if any(kind == "nftables" for kind, _ in failed) else self.nft)


@dataclass(frozen=True, slots=True)
class Failure:
    """One object that could not be written or removed; ``code`` is the errno, 0 where the kernel gave none."""

    kind: str
    object: str
    reason: str
    code: int = 0
    value: Any = field(default=None, compare=False)  # the object itself, of the kinds that belong to a remote node


@dataclass(frozen=True, slots=True)
class Report:
    """What came of ``Kernel.apply``."""

    written: int = 0
    removed: int = 0
    failures: tuple[Failure, ...] = ()
