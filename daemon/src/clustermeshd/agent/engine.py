"""What happens in the kernel thread: read the kernel, plan, write the difference, look again.

A whole round reads everything and trusts nothing. A quick one carries single remote nodes over into a plan that the
last whole round found in force, and writes their objects alone; whatever it cannot do that way falls to a whole one.
Where that round could not write everything, it is a whole one too, which alone knows what is there and what is not.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from clustermeshd.kernel.addresses import may_be_chosen
from clustermeshd.kernel.conntrack import Scope
from clustermeshd.kernel.dataplane import NOTHING, Kernel
from clustermeshd.kernel.nftsets import local_set, remote_pods
from clustermeshd.kernel.state import Changes, Failure, FdbEntry, KernelState
from clustermeshd.kube.objects import RemoteNode
from clustermeshd.model.settings import Dataplane
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay import Change, Desired, Overlay
from clustermeshd.plan.overlay_local import LocalNode
from clustermeshd.plan.overlay_status import Summary, summary

_LOG = logging.getLogger(__name__)
_PASSES = 3  # a device made anew changes what the kernel holds; look again until nothing differs
_LINES = 20  # changes of one round that are logged one by one

Deaf = Callable[[], AbstractContextManager[None]]


class Pending(NamedTuple):
    """Remote nodes that changed, and nothing else, between two versions of the inputs."""

    since: int
    version: int
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the API server says; ``version`` changes whenever it does, for which ``pending`` may stand."""

    local: LocalNode
    remotes: Iterable[RemoteNode]  # each time anew the same
    version: int
    mtus: Mapping[tuple[str, str, int], int] = field(default_factory=dict)  # see Overlay.plan
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One round: what is wanted and what is, what was written (not what was tried), what failed."""

    summary: Summary
    written: tuple[Changes, ...] = ()
    failures: tuple[Failure, ...] = ()
    watched: Mapping[str, int] = field(default_factory=dict)  # our devices and those below; whole rounds only
    mtus: Mapping[tuple[str, int], int] | None = None  # by overlay routing mode and inner family; whole rounds only
    dropped: Mapping[str, int] = field(default_factory=dict)  # packets by nftables chain; whole rounds only


class _Basis(NamedTuple):
    """What a plan is made from: another one of these is another plan."""

    version: int
    mtus: Mapping[tuple[str, str, int], int]
    local: LocalNode
    surroundings: object


class Engine:
    """Kernel and plan of one node. All calls block."""

    def __init__(self, settings: Dataplane) -> None:
        self.settings = settings
        self.kernel = Kernel(settings)
        self._overlay = Overlay(settings)
        self._planned: tuple[_Basis, Desired] | None = None
        self._has_lost_underlay = False
        self._wanted: Desired | None = None
        self._is_in_force = False  # the kernel is as the plan says, by the last look at it
        self.has_new_remotes = False  # since the last sweep, our NAT rules learned of a destination

    def close(self) -> None:
        self.kernel.close()

    def compare(self, inputs: Inputs) -> tuple[Desired, KernelState, Changes]:
        """Read the kernel and plan against it: the same for a round and for ``--dry-run``."""
        if inputs.pending is not None and inputs.pending.changes:
            self._carry(inputs.pending)
        if self._wanted is None:  # what is there and what is wanted would be in memory side by side
            wanted = self._plan(inputs, self.kernel.observe(NOTHING).without_nodes())
            state = self.kernel.observe(wanted.marked)
        else:
            state = self.kernel.observe(self._wanted.marked)
            wanted = self._plan(inputs, state)
        changes = diff(wanted.marked, state.marked)
        self.kernel.confirm(wanted.marked, changes)
        return wanted, state, changes

    def _plan(self, inputs: Inputs, state: KernelState) -> Desired:
        """The whole plan; the one that is there where nothing that it was made from has changed."""
        basis = _Basis(inputs.version, inputs.mtus, inputs.local, self._surroundings(inputs.local, state))
        if self._planned is None or self._planned[0] != basis:
            self._planned = None
            wanted = self._overlay.plan(inputs.local, inputs.remotes, state, inputs.mtus)
            self._planned = (basis, wanted)
            self._has_lost_underlay = any(problem.reason == "NoUnderlay" for problem in wanted.problems)
        return self._planned[1]

    def _carry(self, pending: Pending) -> tuple[Desired, Changes] | None:
        """Take changed remote nodes over into the plan, and what that changes; None where it takes a new plan."""
        planned = self._planned
        if planned is None or planned[0].version != pending.since:
            return None
        self._planned = None
        self.kernel.forget()  # what it remembers are the very values that change now
        made = self._overlay.change(pending.changes)
        if made is not None:
            self._planned = planned[0]._replace(version=pending.version), made[0]
        return made

    def _surroundings(self, local: LocalNode, state: KernelState) -> object:
        """What a plan depends on in the kernel: not our own objects, as long as the underlay is where it should be.

        Of links and addresses only what the underlay may be and what is the node's: those of pods come and go.
        """
        around, marked = state.around, state.marked
        ours = {self.settings.device_of(family) for family in (4, 6)}
        own = {address.packed for address in (*local.addresses, *local.tunnel_addresses)}
        theirs = tuple(
            entry
            for entry in around.addresses
            if entry.address not in marked.addresses
            and (entry.address in own or may_be_chosen(entry.address, self.settings))
        )
        under = {entry.link for entry in theirs} | {device.lower for device in marked.devices.values()}
        links = {name: around.links[name] for name in under & around.links.keys() - ours}
        kept = tuple(marked.devices.values()) if self._has_lost_underlay else ()
        beside = dataclasses.replace(around, links=links, addresses=theirs)
        return beside, kept, bool(around.foreign_routes and marked.rules), bool(around.rival_vxlans and marked.devices)

    def whole(self, inputs: Inputs, *, is_repair: bool = False, deaf: Deaf = nullcontext) -> Outcome:
        """Write until nothing differs, or until writing fails.

        Who listens to the kernel may be ``deaf`` while the bulk is written: the look that follows misses nothing.
        """
        with _undisturbed():
            outcome = self._whole(inputs, is_repair=is_repair, deaf=deaf)
        _trim()
        return outcome

    def _whole(self, inputs: Inputs, *, is_repair: bool, deaf: Deaf) -> Outcome:
        written: list[Changes] = []
        failures: tuple[Failure, ...] = ()
        self._is_in_force = False
        for attempt in range(_PASSES):
            wanted, state, changes = self.compare(inputs)
            self._wanted = wanted
            if not changes:
                self._is_in_force = True
                break
            is_first = attempt == 0
            with deaf() if is_first else nullcontext():  # no look follows the last
                took, failures = self._apply(wanted, changes, is_repair=is_repair and is_first)
            written += [took] if took else []
            if failures:
                wanted, state, _ = self.compare(inputs)
                break
        involved = {name for device in state.marked.devices.values() for name in (device.name, device.lower)}
        links = state.around.links
        watched = {name: links[name].index for name in involved if name in links}
        mtus = _mtus(inputs.local, wanted, state)
        return Outcome(summary(wanted, state.marked, failures), tuple(written), failures, watched, mtus, state.dropped)

    def quick(self, pending: Pending) -> Outcome | None:
        """Carry changed remote nodes over; None where a whole round must follow, which nothing may precede."""
        made = self._carry(pending) if self._is_in_force else None
        if made is None:
            return None
        wanted, changes = made
        if not changes:
            return Outcome(summary(wanted, wanted.marked))
        self._is_in_force = False
        took, failures = self._apply(wanted, changes, is_repair=False)
        self._is_in_force = not failures
        return Outcome(summary(wanted, wanted.marked), (took,) if took else (), failures)

    def planned(self, entry: FdbEntry) -> FdbEntry | None:
        """The FDB entry that is wanted in the place of that one; may be asked from any thread."""
        return self._wanted.marked.fdb.get(entry.key) if self._wanted is not None else None

    def take_scopes(self) -> list[Scope]:
        """What our NAT rules say now, by family: all connections are to be looked at by it."""
        self.has_new_remotes = False
        if self._wanted is None or self._wanted.marked.nft is None:
            return []
        elements = self._wanted.marked.nft.elements
        sources = {base.family: base.source for base in self._wanted.bases.values()}
        return [
            Scope(
                tuple(elements[local_set(family)]),
                {
                    found.length: frozenset(prefixes)
                    for name, prefixes in elements.items()
                    if (found := remote_pods(name)) and found.family == family
                },
                sources.get(family),
            )
            for family in (4, 6)
        ]

    def _apply(self, wanted: Desired, changes: Changes, *, is_repair: bool) -> tuple[Changes, tuple[Failure, ...]]:
        """Write; what took, which is logged, and what failed."""
        self._wanted = wanted
        change = changes.nft
        if change is not None and change.table is not None:
            is_whole = change.is_new or change.write_rules
            self.has_new_remotes |= is_whole or any(map(remote_pods, change.add))
        failures = self.kernel.apply(changes).failures
        took = changes.without(failures)
        log_changes(took, is_repair=is_repair)
        return took, failures


def _mtus(local: LocalNode, wanted: Desired, state: KernelState) -> dict[tuple[str, int], int]:
    """Size of a full packet in the overlay, and outside of it on the interface of the node's address."""
    mtus = {("Enabled", base.family): base.device.mtu for base in wanted.bases.values()}
    internal = {address.packed for address in local.addresses}
    links = {entry.link for entry in state.around.addresses if entry.address in internal} & state.around.links.keys()
    if links:
        outside = min(state.around.links[name].mtu for name in links)
        mtus |= {("Disabled", family): outside for family in (4, 6)}
    return mtus


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No search for garbage while tens of thousands of values are made: it took half the time and found none."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _trim() -> None:
    """Give memory back that only a whole round needed; allocators of other C libraries than glibc do so themselves."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def log_changes(changes: Changes, *, is_repair: bool) -> None:
    """One line per change; a summary where there are many."""
    word = "repaired" if is_repair else "wrote"
    for kind, delta in changes.deltas():
        for verb, values in ((word, delta.put), ("removed", delta.delete)):
            if len(values) > _LINES:
                _LOG.info("%s %d %s", verb, len(values), kind)
                continue
            for value in values:
                _LOG.info("%s %s", verb, value)
    if changes.nft is not None:
        _LOG.info("%s", changes.nft)
