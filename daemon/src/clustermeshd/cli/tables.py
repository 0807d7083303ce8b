"""Plain tables for terminals, as kubectl prints them."""

from __future__ import annotations

from collections.abc import Sequence

from clustermeshd.runtime.logs import escape


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns, three blanks apart; control characters of remote names are escaped."""
    cells = [list(header), *[[escape(str(cell)) if cell not in (None, "") else "-" for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)
