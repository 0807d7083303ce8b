"""Figures of a run: samples taken in turn, tables printed as they grow, and ratios against their limits."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


class BenchError(Exception):
    """The benchmark could not be run, or what was measured is not what it should be; says which."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One promise: a ratio (or count) and the most, or the least, that it may be."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """False for a value that is no number."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        side, verdict = ("at least", "at most")[not self.at_least], "ok" if self.holds else "BEYOND"
        return f"{self.name} ratio={self.value:.4g} limit={self.limit:.4g} ({side}) {verdict}"


def exit_status(ratios: Sequence[Ratio]) -> int:
    """0 when every ratio holds; 1 when one does not, or when there is none."""
    return 0 if ratios and all(ratio.holds for ratio in ratios) else 1


class Table:
    """A table on standard output whose rows appear as they are known."""

    def __init__(self, *columns: str) -> None:
        self._widths = [max(len(column), 10) for column in columns]
        self.row(*columns)

    def row(self, *values: object) -> None:
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        self._widths = [max(pair) for pair in zip(self._widths, map(len, texts), strict=True)]
        cells = [text.ljust(width) for text, width in zip(texts, self._widths, strict=True)]
        print("  ".join(cells).rstrip(), flush=True)


def in_turn(rounds: int, ways: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Samples of each way, taken as A B, B A, A B ...: what the machine does meanwhile meets all alike."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways) if number % 2 == 0 else list(reversed(ways))
        for name in names:
            samples[name].append(ways[name]())
    return samples


def ratio_of(samples: Mapping[str, Sequence[float]], ours: str, reference: str) -> float:
    """Median of ours over median of the reference."""
    below = statistics.median(samples[reference])
    return statistics.median(samples[ours]) / below if below else math.inf


def percentile(samples: Sequence[float], percent: float) -> float:
    """Nearest rank."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def load() -> str:
    """Load of the machine, to be read beside absolute figures."""
    one, five, _ = os.getloadavg()
    return f"load {one:.1f} (5 min {five:.1f}) on {os.cpu_count()} CPUs"
