"""What labels a selector demands: the ground of an index from labels to the selectors that may match.

A demand is necessary, never sufficient: labels that do not meet it are surely not selected, the others are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from clustermeshd.selector import ast

Demands: TypeAlias = Mapping[str, frozenset[str] | None]
"""Label -> values of which it must have one; None = it must be there with any value."""


def demands(selector: ast.Selector) -> Demands:
    """Labels without which nothing is selected. Negations demand nothing (libcalico-go calls these restrictions)."""
    match selector:
        case ast.Equal(label, value, negated=False):
            return {label: frozenset((value,))}
        case ast.In(label, values, negated=False):
            return {label: frozenset(values)}
        case ast.Has(label) | ast.Contains(label) | ast.StartsWith(label) | ast.EndsWith(label):
            return {label: None}
        case ast.And(operands):
            return _all([demands(operand) for operand in operands])
        case ast.Or(operands):
            return _any([demands(operand) for operand in operands])
        case _:
            return {}


def _all(parts: list[Demands]) -> Demands:
    """Every demand counts; of two on one label what both allow."""
    merged: dict[str, frozenset[str] | None] = {}
    for part in parts:
        for label, values in part.items():
            known = merged.get(label)
            merged[label] = values if known is None else known if values is None else known & values
    return merged


def _any(parts: list[Demands]) -> Demands:
    """Only what every alternative demands counts; of two on one label what either allows."""
    first, *rest = parts
    merged: dict[str, frozenset[str] | None] = {}
    for label, values in first.items():
        if all(label in part for part in rest):
            others = [values, *(part[label] for part in rest)]
            known = [v for v in others if v is not None]
            merged[label] = frozenset().union(*known) if len(known) == len(others) else None
    return merged
