"""Probes paths to remote nodes, from tunnel address to tunnel address, the way that pods' packets take.

Each agent answers on its tunnel addresses and asks a bounded sample of the others. An answer is never longer than what
it answers, goes only to known tunnel addresses, and no more often than a limit; whatever else arrives is dropped. A
request says what is asked for, nothing of either end: the network between them is trusted with nothing.

A path that nothing is known of yet is asked again sooner than in the next round, so that a mesh just made is known to
work when it does. What stays unanswered then is no loss: the other end may still be starting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from clustermeshd.agent.metrics import Metrics
from clustermeshd.model.settings import Probing
from clustermeshd.plan.paths import STATES, TURNS, Path, PathSummary, Result, Target, sample, summarise
from clustermeshd.runtime.rate import Rate

_LOG = logging.getLogger(__name__)
_DATAGRAM: Final = struct.Struct("!4sBBHQQ")  # magic, version, type, unused, session, sequence
_MAGIC, _VERSION, _REQUEST, _ANSWER = b"CMPP", 1, 1, 2
_HEADERS: Final = {4: 20 + 8, 6: 40 + 8}  # bytes of IP and UDP
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_IP_FREEBIND, _IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _IPV6_FREEBIND, _PROBE = 15, 10, 23, 78, 3
_MOST_PROBLEMS: Final = 20
_MOST_READ: Final = 256  # datagrams at a time
_ANSWERS_PER_S: Final = 5000
_ANSWERS_TO_ONE_PER_S: Final = 50
_HEARD_ROUNDS: Final = 3  # rounds for which the other end's own probes count as heard
_SOON: Final = 10  # an interval has so many places for what nothing is known of yet


@dataclass(slots=True)
class _Round:
    """What came of one round for one target: sizes sent, and seconds until each was answered."""

    target: Target
    sent: dict[int, float | None]


class Prober:
    """``targets`` gives the remote nodes' tunnel addresses now; ``on_change`` hears when a state changed.

    ``version`` is another value when ``targets`` may give others: to look at ten thousand takes 0.1 s.
    """

    def __init__(
        self,
        settings: Probing,
        targets: Callable[[], Sequence[Target]],
        version: Callable[[], object],
        *,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        self._settings, self._targets, self._version = settings, targets, version
        self._metrics, self._on_change = metrics, on_change
        self._looked_at: object = None
        self._chosen: dict[tuple[str, str, int], Target] = {}
        self._local: Collection[str] = ()  # own tunnel addresses
        self._paths: dict[tuple[str, str, int], Path] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._session = secrets.randbits(64)
        self._sequence = 0
        self._waiting: dict[int, tuple[_Round, int, float]] = {}
        self._known: Collection[str] = ()  # tunnel addresses of remote nodes
        self._heard: dict[str, float] = {}  # those whose probes came lately, and when the last did
        self._answers = Rate(_ANSWERS_PER_S, _ANSWERS_PER_S)
        self._answers_to: dict[str, Rate] = {}
        self._turn = 0
        self._refused: str = ""

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                started = time.monotonic()
                await self._round()
                await self._rest(started + self._settings.interval_s * random.uniform(0.9, 1.0))  # noqa: S311
        finally:
            self._bind(())

    def summary(self) -> PathSummary:
        return summarise(self._paths.values(), most=_MOST_PROBLEMS)

    def mtus(self) -> dict[tuple[str, str, int], int]:
        """By cluster, node and family: the largest packet that passes where full-size ones do not."""
        return {
            key: path.mtu for key, path in self._paths.items() if path.state == "black-holed" and path.mtu is not None
        }

    async def _round(self) -> None:
        bad = {key for key, path in self._paths.items() if path.is_bad}
        guest = self._turn // TURNS
        wanted = self._version(), guest, bad
        if wanted != self._looked_at:
            self._chosen, self._local, self._known = await asyncio.to_thread(self._look, guest, bad)
            self._looked_at = wanted
        self._bind(self._local)
        since = time.monotonic() - _HEARD_ROUNDS * self._settings.interval_s
        self._heard = {source: at for source, at in self._heard.items() if at > since and source in self._known}
        self._answers_to = {source: rate for source, rate in self._answers_to.items() if source in self._known}
        self._turn += 1
        self._paths = {key: path for key, path in self._paths.items() if key in self._chosen}
        await self._probe(list(self._chosen.values()))

    def _look(
        self, guest: int, bad: Collection[tuple[str, str, int]]
    ) -> tuple[dict[tuple[str, str, int], Target], set[str], set[str]]:
        """Whom to ask: a sample and those whose path is bad, until it is good; own addresses and all others'.

        Beside the loop, since there may be many; they are not held any longer than that.
        """
        targets = self._targets()
        picked = {target.key: target for target in sample(targets, self._settings.sample, guest)}
        again = (target for target in targets if target.key in bad and target.key not in picked)
        picked |= {target.key: target for target in islice(again, self._settings.sample)}
        return picked, {target.local for target in targets}, {target.address for target in targets}

    async def _rest(self, until: float) -> None:
        """Until the next round, or the next look where there was nobody to ask; meanwhile unknown paths once more."""
        soon_s = self._settings.interval_s / _SOON
        while (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, soon_s) if self._unknown() or not self._paths else left_s)
            if not self._paths:
                return
            if until - time.monotonic() > soon_s + self._settings.timeout_s:
                await self._probe(self._unknown(), again=True)

    def _unknown(self) -> list[Target]:
        return [path.target for path in self._paths.values() if path.state == "unknown"]

    async def _probe(self, targets: Sequence[Target], *, again: bool = False) -> None:
        rounds = await self._ask(targets)
        await asyncio.sleep(self._settings.timeout_s if rounds else 0.0)
        self._judge(rounds, again=again)

    async def _ask(self, targets: Sequence[Target]) -> list[_Round]:
        """Send to all, spread over half of the interval; sooner where nothing is known of any."""
        rounds = []
        for target in targets:
            path = self._paths.setdefault(target.key, Path(target))
            if path.target != target:  # it has another address now, or is reached in another way
                self._paths[target.key] = Path(target)
        is_new = all(self._paths[target.key].state == "unknown" for target in targets)
        spread_s = self._settings.interval_s / 2 / (_SOON if is_new else 1)
        pause_s = spread_s / max(len(targets), 1)
        for target in targets:
            probe = _Round(target, {})
            smallest = _HEADERS[target.family] + _DATAGRAM.size
            for size in (smallest, *self._paths[target.key].sizes(), target.mtu):
                self._send(probe, max(size, smallest))
            rounds.append(probe)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
        return rounds

    def _send(self, probe: _Round, size: int) -> None:
        self._sequence += 1
        probe.sent[size] = None
        sender = self._sockets.get(probe.target.local)
        if sender is None:
            return
        data = _DATAGRAM.pack(_MAGIC, _VERSION, _REQUEST, 0, self._session, self._sequence)
        data += bytes(size - _HEADERS[probe.target.family] - len(data))
        self._waiting[self._sequence] = (probe, size, time.perf_counter())
        self._metrics.probes.labels("sent").inc()
        with contextlib.suppress(OSError):  # no route, too large: as good as lost
            sender.sendto(data, (probe.target.address, self._settings.port))

    def _judge(self, rounds: Iterable[_Round], *, again: bool) -> None:
        self._waiting.clear()
        now = time.monotonic()
        has_changed = False
        for probe in rounds:
            path = self._paths.get(probe.target.key)
            if path is None or path.target != probe.target:
                continue
            if again and None in probe.sent.values():  # the next round says what that is
                continue
            smallest, largest = min(probe.sent), max(probe.sent)
            others = tuple((size, rtt is not None) for size, rtt in probe.sent.items() if smallest < size < largest)
            heard_at = self._heard.get(probe.target.address, 0.0)
            result = Result(
                small=probe.sent[smallest] is not None,
                full=probe.sent[largest] is not None if largest > smallest else None,
                heard=bool(heard_at) and now - heard_at < _HEARD_ROUNDS * self._settings.interval_s,
                rtt_s=probe.sent[smallest],
                sizes=others,
            )
            has_changed |= self._take(path, result, now)
            self._metrics.probes.labels("lost").inc(sum(rtt is None for rtt in probe.sent.values()))
        for state in STATES:
            self._metrics.paths.labels(state).set(sum(path.state == state for path in self._paths.values()))
        if has_changed:
            self._on_change()

    def _take(self, path: Path, result: Result, now: float) -> bool:
        before = path.state
        has_changed = path.see(result, now)
        if result.rtt_s is not None:
            self._metrics.path_rtt.observe(result.rtt_s)
        if path.state != before and "unknown" not in (path.state, before):
            name = f"{path.target.cluster}.{path.target.node} IPv{path.target.family}"
            level = logging.INFO if path.state == "reachable" else logging.WARNING
            _LOG.log(level, "path to %s is %s (%s)", name, path.state, path.reason)
        return has_changed

    # ---- sockets

    def _bind(self, wanted: Iterable[str]) -> None:
        """One socket for each own tunnel address, whether the address is there already or not."""
        loop = asyncio.get_running_loop()
        wanted = set(wanted)
        for address in self._sockets.keys() - wanted:
            gone = self._sockets.pop(address)
            loop.remove_reader(gone)
            gone.close()
        for address in wanted - self._sockets.keys():
            try:
                made = _socket(address, self._settings.port)
            except OSError as error:
                if self._refused != str(error):
                    _LOG.warning("no probes from %s: %s (setting probe_port)", address, error)
                self._refused = str(error)
                continue
            self._sockets[address] = made
            loop.add_reader(made, self._on_readable, made)

    def _on_readable(self, listener: socket.socket) -> None:
        for _ in range(_MOST_READ):
            try:
                data, sender = listener.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier probe: it counts as lost
                continue
            self._on_datagram(listener, data, sender)

    def _on_datagram(self, listener: socket.socket, data: bytes, sender: tuple[str, int]) -> None:
        arrived = time.perf_counter()
        if len(data) < _DATAGRAM.size or sender[0] not in self._known:
            return
        magic, version, kind, _, session, sequence = _DATAGRAM.unpack_from(data)
        if (magic, version) != (_MAGIC, _VERSION):
            return
        if kind == _REQUEST:
            self._heard[sender[0]] = time.monotonic()
            if self._may_answer(sender[0]):
                answer = _DATAGRAM.pack(_MAGIC, _VERSION, _ANSWER, 0, session, sequence)
                with contextlib.suppress(OSError):
                    listener.sendto(answer, sender)
        elif kind == _ANSWER and session == self._session:
            waiting = self._waiting.pop(sequence, None)
            if waiting is not None and waiting[0].target.address == sender[0]:
                probe, size, sent_at = waiting
                if arrived - sent_at > self._settings.timeout_s:  # a round is judged later than that
                    return
                probe.sent[size] = arrived - sent_at
                self._metrics.probes.labels("answered").inc()

    def _may_answer(self, source: str) -> bool:
        """Within the rate of that source and within that of all: one that floods us takes nothing from others."""
        own = self._answers_to.setdefault(source, Rate(_ANSWERS_TO_ONE_PER_S, _ANSWERS_TO_ONE_PER_S))
        if not own.has_room or not self._answers.has_room:
            return False
        own.take()
        self._answers.take()
        return True


def _socket(address: str, port: int) -> socket.socket:
    """A datagram socket that never fragments, and that does not wait for its address to appear."""
    family = 6 if ":" in address else 4
    made = socket.socket(_FAMILIES[family], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == 4:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
