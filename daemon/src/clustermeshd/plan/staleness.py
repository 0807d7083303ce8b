"""When a peer counts as lost, and what that means for the endpoints it gave.

Time is our own monotonic clock and enters as a parameter; a clock of the peer's never counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.errors import Refused
from clustermeshd.plan.federation import Stale

_POLICIES: dict[str, Stale] = {"keep": "", "notready": "NotReady", "drop": "Drop"}
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
GRACE_S = 30.0
STEADY_S = 10.0
"""A lost peer that comes back must stay so long before its next loss counts from zero again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of the endpoints of a lost cluster, and after how many seconds."""

    stale: Stale = "NotReady"
    after_s: float = 300.0

    def at(self, lost_s: float) -> Stale:
        """What holds when the peer has been lost for ``lost_s`` seconds; 0 = it is not lost."""
        return self.stale if lost_s > 0 and lost_s >= self.after_s else ""


def policy_of(peer: objects.Staleness) -> Policy:
    """Policy of a RemoteClusterConfiguration; an unknown word keeps everything (the CRD refuses it at the door)."""
    return Policy(_POLICIES.get(peer.policy.lower(), ""), max(0.0, float(peer.after_seconds)))


def annotated(service: objects.Service) -> Policy | None:
    """Policy that a Service asks for: ``keep``, ``not-ready:5m`` or ``drop:600``; None where it asks for none.

    Raises Refused for anything else.
    """
    text = service.annotations.get(names.STALENESS)
    if text is None:
        return None
    word, _, after = text.strip().lower().partition(":")
    stale = _POLICIES.get(word.replace("-", ""))
    number = after.rstrip("smh")
    seconds = _UNITS.get(after[len(number) :])
    is_number = number.isascii() and (number or "0").isdecimal() and len(number) <= 9
    if stale is None or seconds is None or not is_number:
        raise Refused(
            "InvalidStaleness",
            f"{text[:100]!r} is no policy",
            where=f"annotation {names.STALENESS}",
            fix="write keep, not-ready:5m or drop:10m",
        )
    return Policy(stale, float(number) * seconds if number else 300.0)


class Freshness:
    """How long a peer has been lost, with hysteresis: a peer that flaps stays lost while it does.

    A process that has just started gives its peers ``GRACE_S`` to be read for the first time.
    """

    def __init__(self, now: float) -> None:
        self._grace_until = now + GRACE_S
        self._lost_at: float | None = None
        self._back_at: float | None = None

    def observe(self, *, is_current: bool, now: float) -> None:
        """Takes note of whether the peer's facts are current at a moment."""
        if not is_current:
            self._back_at = None
            if self._lost_at is None and now >= self._grace_until:
                self._lost_at = now
            return
        self._grace_until = now
        if self._lost_at is not None:
            if self._back_at is None:
                self._back_at = now
            if now - self._back_at >= STEADY_S:
                self._lost_at = self._back_at = None

    def lost_s(self, now: float) -> float:
        """Seconds since the peer was lost; 0 while it is not."""
        return 0.0 if self._lost_at is None else max(1e-3, now - self._lost_at)
