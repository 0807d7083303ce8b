"""Logs to standard error: a line of text for people, or one JSON object a line for collectors.

Control characters in a message are escaped, so that a name or an error text of a remote cluster cannot forge a line
or drive a terminal.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeVar

E = TypeVar("E", bound=BaseException)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """``text`` with control and bidirectional characters as \\x.. escapes."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _stamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        logger = record.name.removeprefix("clustermeshd.")
        line = f"{_stamp(record)} {record.levelname:<7} {logger}: {record.getMessage()}"
        if record.exc_info:
            line = f"{line}: {self.formatException(record.exc_info)}"
        return escape(line)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def each(group: BaseExceptionGroup[E]) -> Iterator[E]:
    """The errors of a group, and of groups in it: what ends a TaskGroup comes as one."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from each(error)
        else:
            yield error


def configure(form: str = "text", level: str = "info") -> None:
    """Sends all logs to standard error in ``form`` text or json, from ``level`` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for chatty in ("aiohttp", "asyncio", "kubernetes"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
