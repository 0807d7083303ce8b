"""Conditions of a status: types, stable reasons, and times that move only when the status does (KEP-1623)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clustermeshd.kube import objects


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition as it is now, without its history."""

    type: str
    status: bool | None  # None = Unknown
    reason: str
    message: str = ""


def merge(
    before: Iterable[objects.Condition] | None, now: Sequence[Verdict], *, time: str, generation: int
) -> tuple[objects.Condition, ...]:
    """Conditions of ``now``; each keeps its transition time while its status stays the same."""
    known = {condition.type: condition for condition in before or ()}
    merged: list[objects.Condition] = []
    for verdict in now:
        status = "Unknown" if verdict.status is None else str(verdict.status)
        old = known.get(verdict.type)
        merged.append(
            objects.Condition(
                type=verdict.type,
                status=status,
                reason=verdict.reason,
                message=verdict.message[:2000],
                last_transition_time=old.last_transition_time if old is not None and old.status == status else time,
                observed_generation=generation,
            )
        )
    return tuple(merged)
