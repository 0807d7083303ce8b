"""Paths to remote nodes as probes find them: which to probe, and what their answers amount to.

A path is judged by two kinds of probe over the way that pods take: small ones, and ones of full size that may not be
fragmented. One lost packet says nothing: a state changes only after several results in a row, and back likewise.
Everything here is pure; time comes in as a number of seconds of a monotonic clock.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

State = Literal["unknown", "reachable", "degraded", "black-holed", "unreachable"]
STATES: Final[tuple[State, ...]] = ("unknown", "reachable", "degraded", "black-holed", "unreachable")
_FAILURES: Final = 3  # in a row until a path is unreachable or black-holed
_SUCCESSES: Final = 2  # in a row until it no longer is
TURNS: Final = 2 * _FAILURES  # rounds that a node keeps the place that goes round: enough to judge it
_WINDOW: Final = 10  # results that loss is counted over
_DEGRADED: Final = 3  # losses in the window until a path is degraded
_RECOVERED: Final = 1  # losses in the window at which it no longer is
_LEAST: Final = {4: 576, 6: 1280}  # bytes; what every path takes (RFC 791, RFC 8200)
_FINE: Final = 8  # bytes to which a search goes down
_STEPS: Final = 6  # sizes tried in one round while a path does not take full-size packets


class Target(NamedTuple):
    """A remote node's tunnel address of one family, and this node's; ``mtu`` is the size in bytes of a full packet."""

    cluster: str
    node: str
    family: int
    address: str
    local: str
    mode: str  # Enabled: through the overlay; Disabled: by the user's own routing
    mtu: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.cluster, self.node, self.family


class Result(NamedTuple):
    """One round of probes of one path. ``full`` is None where nothing of full size was sent."""

    small: bool
    full: bool | None
    heard: bool  # whether the other end's own probes have arrived lately
    rtt_s: float | None = None
    sizes: tuple[tuple[int, bool], ...] = ()  # other sizes that were tried, and whether they passed


@dataclass(slots=True)
class Path:
    """What is known of one path."""

    target: Target
    state: State = "unknown"
    reason: str = "NotProbedYet"
    since: float = 0.0  # seconds of the monotonic clock
    mtu: int | None = None  # the largest packet that passes, while full-size ones do not and once it is known
    rtt_s: float | None = None  # smoothed as in RFC 6298
    _window: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _small_run: int = 0  # results in a row: positive answered, negative lost
    _full_run: int = 0
    _mtu_run: int = 0
    _passed: int = 0  # bytes, of the search for what passes
    _failed: int = 0

    @property
    def is_bad(self) -> bool:
        return self.state not in ("unknown", "reachable")

    def see(self, result: Result, now: float) -> bool:
        """Take a round's result; whether the state, its reason or the MTU changed."""
        before = (self.state, self.reason, self.mtu)
        self._window.append(result.small)
        self._small_run = _run(self._small_run, result.small)
        if result.small and result.full is not None:
            self._full_run = _run(self._full_run, result.full)
        if result.rtt_s is not None:
            self.rtt_s = result.rtt_s if self.rtt_s is None else 0.875 * self.rtt_s + 0.125 * result.rtt_s
        state, reason = self._judge(result)
        if state != self.state:
            self.since = now
        self.state, self.reason = state, reason
        self._measure(result)
        return before != (self.state, self.reason, self.mtu)

    def sizes(self) -> tuple[int, ...]:
        """Sizes worth trying in the next round: none unless full-size packets do not pass.

        A search narrows down between what passed and what did not; once it has ended, its result is tried again each
        round, and when that is lost several times in a row the search begins anew.
        """
        if self.state != "black-holed":
            return ()
        if self.mtu is not None:
            return (self.mtu,)
        low, high = self._passed or _LEAST[self.target.family] - 1, self._failed or self.target.mtu
        step = max(1, (high - low) // (_STEPS + 1))
        return tuple(size for size in (low + step * place for place in range(1, _STEPS + 1)) if size < high)

    def _judge(self, result: Result) -> tuple[State, str]:
        if self._small_run <= -_FAILURES or (self.state == "unreachable" and self._small_run < _SUCCESSES):
            return "unreachable", "OutboundLost" if result.heard else "NoAnswer"
        if self._full_run <= -_FAILURES or (self.state == "black-holed" and self._full_run < _SUCCESSES):
            return "black-holed", "FullSizeLost"
        lost = self._window.count(False)
        if lost >= _DEGRADED or (self.state == "degraded" and lost > _RECOVERED):
            return "degraded", "Loss"
        if self.state == "unknown" and self._small_run < _SUCCESSES:
            return self.state, self.reason
        return "reachable", "Answered"

    def _measure(self, result: Result) -> None:
        """Only a search that has come to its end says what passes: routes follow it."""
        if self.state != "black-holed":
            self.mtu, self._passed, self._failed, self._mtu_run = None, 0, 0, 0
        elif self.mtu is not None:
            for size, did_pass in result.sizes:
                self._mtu_run = _run(self._mtu_run, did_pass) if size == self.mtu else self._mtu_run
            if self._mtu_run <= -_FAILURES:  # the way became narrower, or what was measured was chance
                self.mtu, self._passed, self._failed, self._mtu_run = None, 0, 0, 0
        elif result.small and result.sizes:
            self._passed = max([size for size, did_pass in result.sizes if did_pass] + [self._passed])
            lost = [size for size, did_pass in result.sizes if not did_pass and size > self._passed]
            self._failed = min([*lost, self._failed or self.target.mtu])
            if self._failed - self._passed <= _FINE and self._passed:
                self.mtu = self._passed


class PathProblem(NamedTuple):
    """A path that is not as it should be."""

    cluster: str
    node: str
    family: int
    state: State
    reason: str
    mtu: int | None
    since: float


class PathSummary(NamedTuple):
    """All paths of a node: how many in each state, and the worst."""

    counts: tuple[tuple[State, int], ...]
    problems: tuple[PathProblem, ...]


def summarise(paths: Iterable[Path], *, most: int) -> PathSummary:
    """At most ``most`` problems: unreachable ones first, then in order of name."""
    known = list(paths)
    counts = tuple((state, sum(path.state == state for path in known)) for state in STATES)
    bad = [path for path in known if path.is_bad]
    bad.sort(key=lambda path: (-STATES.index(path.state), path.target.key))
    problems = [PathProblem(*path.target.key, path.state, path.reason, path.mtu, path.since) for path in bad[:most]]
    return PathSummary(counts, tuple(problems))


def sample(targets: Sequence[Target], count: int, guest: int) -> list[Target]:
    """Which remote nodes to probe: ``count`` of them with all their families, all where there are no more.

    One of each remote cluster first, as far as ``count`` goes, then those that score highest by a hash of both ends'
    addresses: the same after a restart, and seen from the other end, so that two nodes tend to choose each other.
    The last place goes to the others in turn, by the number ``guest``: every path is seen now and then.
    """
    nodes: dict[tuple[str, str], list[Target]] = {}
    for target in targets:  # not sorted: of ten thousand that takes 13 ms, in which no other thread gets a turn
        nodes.setdefault((target.cluster, target.node), []).append(target)
    if len(nodes) <= count:
        return list(targets)
    scores = {node: _score(min(members)) for node, members in nodes.items()}
    ranked = sorted(scores, key=scores.__getitem__)
    first_of_cluster: dict[str, tuple[str, str]] = {}
    for node in ranked:
        first_of_cluster.setdefault(node[0], node)
    fixed = list(dict.fromkeys([*first_of_cluster.values(), *ranked]))[: max(count - 1, 0)]
    taken = set(fixed)
    others = [node for node in ranked if node not in taken]
    chosen = [*fixed, others[guest % len(others)]] if count else []
    return [target for node in chosen for target in nodes[node]]


def _score(target: Target) -> bytes:
    ends = "/".join(sorted((target.local, target.address)))
    return hashlib.sha256(ends.encode()).digest() + f"{target.cluster}/{target.node}".encode()


def _run(before: int, did_pass: bool) -> int:
    return max(before, 0) + 1 if did_pass else min(before, 0) - 1
