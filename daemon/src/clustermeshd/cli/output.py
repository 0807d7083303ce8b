"""What every command prints: one document, as a table for people or as JSON or YAML for programs.

Tables and documents come from the same structs, so that a script finds whatever a person sees. Texts of remote
clusters are escaped in tables, since they could drive a terminal; JSON and YAML escape by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

import msgspec
import yaml

from clustermeshd.runtime.logs import escape

Form = Literal["table", "wide", "json", "yaml"]
FORMS: Final = get_args(Form)


class Document(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all that is printed; every field is always there, so that scripts need not ask."""


class Problem(Document, frozen=True):
    """Something that is not as it should be. A warning alone does not make the exit status 1."""

    severity: Literal["error", "warning"]
    object: str  # "peer west", "service shop/cart"
    reason: str  # stable CamelCase word
    message: str
    fix: str = ""


def serialized(document: Document, form: Form) -> str:
    """The document as JSON or YAML."""
    if form == "yaml":
        return yaml.safe_dump(msgspec.to_builtins(document), sort_keys=False, allow_unicode=True).rstrip()
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns, three blanks apart, as kubectl prints them."""
    cells = [list(header), *[[_cell(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def problem_lines(problems: Sequence[Problem]) -> str:
    """One line per problem with its fix, errors first; empty where there is none."""
    ordered = sorted(problems, key=lambda p: (p.severity, p.object))
    return "\n".join(
        escape(f"{p.severity.upper():<7}   {p.object}: {p.reason}: {p.message}" + (f"; fix: {p.fix}" if p.fix else ""))
        for p in ordered
    )


def is_well(problems: Sequence[Problem]) -> bool:
    """Whether no problem is more than a warning."""
    return all(problem.severity == "warning" for problem in problems)


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else escape(str(value))
