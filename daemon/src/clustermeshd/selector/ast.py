"""What a selector means, as immutable nodes that evaluate themselves against a set of labels.

Meaning as Calico's (libcalico-go/lib/selector/parser/ast.go): a label that is missing makes every positive comparison
false and ``!=`` and ``not in`` true. The canonical text of a node re-parses to an equal node; equal meaning in other
spelling (blanks, quotes, order of a set) has the same canonical text, so work can be shared by it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Labels: TypeAlias = Mapping[str, str]


class Selector(ABC):
    """A parsed selector; ``str()`` gives its canonical text."""

    __slots__ = ()

    @abstractmethod
    def matches(self, labels: Labels) -> bool:
        """Whether an object that carries ``labels`` is selected."""

    @abstractmethod
    def __str__(self) -> str: ...


def _quoted(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


@dataclass(frozen=True, slots=True)
class All(Selector):
    """``all()``, and the blank selector."""

    def matches(self, labels: Labels) -> bool:
        return True

    def __str__(self) -> str:
        return "all()"


@dataclass(frozen=True, slots=True)
class Global(Selector):
    """``global()``: evaluates to true; only a namespace selector gives it another meaning."""

    def matches(self, labels: Labels) -> bool:
        return True

    def __str__(self) -> str:
        return "global()"


@dataclass(frozen=True, slots=True)
class Has(Selector):
    label: str

    def matches(self, labels: Labels) -> bool:
        return self.label in labels

    def __str__(self) -> str:
        return f"has({self.label})"


@dataclass(frozen=True, slots=True)
class Equal(Selector):
    label: str
    value: str
    negated: bool = False

    def matches(self, labels: Labels) -> bool:
        return (labels.get(self.label) == self.value) is not self.negated

    def __str__(self) -> str:
        return f"{self.label} {'!=' if self.negated else '=='} {_quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class In(Selector):
    label: str
    values: tuple[str, ...]  # sorted, unique
    negated: bool = False

    def matches(self, labels: Labels) -> bool:
        return (labels.get(self.label) in self.values) is not self.negated

    def __str__(self) -> str:
        members = ", ".join(_quoted(value) for value in self.values)
        return f"{self.label} {'not in' if self.negated else 'in'} {{{members}}}"


@dataclass(frozen=True, slots=True)
class Contains(Selector):
    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        found = labels.get(self.label)
        return found is not None and self.value in found

    def __str__(self) -> str:
        return f"{self.label} contains {_quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class StartsWith(Selector):
    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        found = labels.get(self.label)
        return found is not None and found.startswith(self.value)

    def __str__(self) -> str:
        return f"{self.label} starts with {_quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class EndsWith(Selector):
    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        found = labels.get(self.label)
        return found is not None and found.endswith(self.value)

    def __str__(self) -> str:
        return f"{self.label} ends with {_quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class Not(Selector):
    operand: Selector

    def matches(self, labels: Labels) -> bool:
        return not self.operand.matches(labels)

    def __str__(self) -> str:
        return f"!{self.operand}"


@dataclass(frozen=True, slots=True)
class And(Selector):
    operands: tuple[Selector, ...]

    def matches(self, labels: Labels) -> bool:
        return all(operand.matches(labels) for operand in self.operands)

    def __str__(self) -> str:
        return f"({' && '.join(str(operand) for operand in self.operands)})"


@dataclass(frozen=True, slots=True)
class Or(Selector):
    operands: tuple[Selector, ...]

    def matches(self, labels: Labels) -> bool:
        return any(operand.matches(labels) for operand in self.operands)

    def __str__(self) -> str:
        return f"({' || '.join(str(operand) for operand in self.operands)})"
