"""What an API server was asked, by the audit log that its control plane keeps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

REVIEWS = ("accessreviews", "tokenreviews")


def requests(log: Path, user: str = "admin") -> list[dict[str, Any]]:
    """The answered requests of a user so far, as the audit log has them."""
    with log.open() as lines:
        events = map(json.loads, lines)
        return [e for e in events if e["stage"] == "ResponseComplete" and e["user"]["username"] == user]


def is_write(event: dict[str, Any]) -> bool:
    """Whether a request stores something: a review of rights or of a token is asked by POST and stores nothing."""
    reads = event["verb"] in ("get", "list", "watch") or any(kind in event["requestURI"] for kind in REVIEWS)
    return not reads
