"""Which selectors select which things, kept current as either changes.

Both sides are indexed by one label that the selector demands, so that a changed label set is compared with the
selectors that can match it, and a changed selector with the things that carry its label: a change costs what it
touches, not the product of all selectors and all things.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from clustermeshd.selector import Selector
from clustermeshd.selector.demands import demands

S = TypeVar("S", bound=Hashable)
T = TypeVar("T", bound=Hashable)

_Key = tuple[str, str | None]  # label and value; None = any value
_ANYTHING: _Key = ("", None)  # no label is empty


class Matches(Generic[S, T]):
    """Selectors by name ``S``, labelled things by name ``T``, and who selects whom."""

    def __init__(self) -> None:
        self._selectors: dict[S, Selector] = {}
        self._labels: dict[T, Mapping[str, str]] = {}
        self._selectors_by: defaultdict[_Key, set[S]] = defaultdict(set)
        self._things_by: defaultdict[_Key, set[T]] = defaultdict(set)
        self._selected: defaultdict[S, set[T]] = defaultdict(set)
        self._selecting: defaultdict[T, set[S]] = defaultdict(set)

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a selector nor a thing."""
        return not self._selectors and not self._labels

    def selected(self, selector: S) -> Iterable[T]:
        """Things that a selector selects."""
        return self._selected.get(selector, ())

    def selecting(self, thing: T) -> Iterable[S]:
        """Selectors that select a thing."""
        return self._selecting.get(thing, ())

    def things(self) -> Iterable[T]:
        return self._labels.keys()

    def set_selector(self, name: S, selector: Selector | None) -> None:
        """Puts, replaces, or with None removes a selector."""
        old = self._selectors.get(name)
        if old == selector:
            return
        if old is not None:
            for key in _keys(old):
                _discard(self._selectors_by, key, name)
            for thing in self._selected.pop(name, ()):
                _discard(self._selecting, thing, name)
            del self._selectors[name]
        if selector is not None:
            self._selectors[name] = selector
            keys = _keys(selector)
            for key in keys:
                self._selectors_by[key].add(name)
            for thing in {t for key in keys for t in self._things_by.get(key, ())}:
                if selector.matches(self._labels[thing]):
                    self._join(name, thing)

    def set_labels(self, name: T, labels: Mapping[str, str] | None) -> set[S]:
        """Puts, replaces, or with None removes a thing; the selectors that selected it before or do so now."""
        old = self._labels.get(name)
        before = self._selecting.get(name, set()).copy()
        if old == labels:
            return before
        if old is not None:
            for key in _label_keys(old):
                _discard(self._things_by, key, name)
            for selector in self._selecting.pop(name, ()):
                _discard(self._selected, selector, name)
            del self._labels[name]
        if labels is not None:
            self._labels[name] = labels
            for key in _label_keys(labels):
                self._things_by[key].add(name)
                for selector in self._selectors_by.get(key, ()):
                    if self._selectors[selector].matches(labels):
                        self._join(selector, name)
        return before | self._selecting.get(name, set())

    def _join(self, selector: S, thing: T) -> None:
        self._selected[selector].add(thing)
        self._selecting[thing].add(selector)


def _keys(selector: Selector) -> Iterable[_Key]:
    """Where a selector is filed: under the demanded label of the fewest values, or under anything."""
    wanted = demands(selector)
    exact = [(label, values) for label, values in wanted.items() if values is not None]
    if exact:
        label, values = min(exact, key=lambda entry: (len(entry[1]), entry[0]))
        return [(label, value) for value in values]
    return [(min(wanted), None)] if wanted else [_ANYTHING]


def _label_keys(labels: Mapping[str, str]) -> list[_Key]:
    return [_ANYTHING, *((label, None) for label in labels), *labels.items()]


K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=Hashable)


def _discard(index: defaultdict[K, set[M]], key: K, member: M) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(member)
        if not members:
            del index[key]
