"""The errors of the whole program, as the families that callers treat differently.

MeshError
├── Retriable   the same call may succeed later (time-out, 5xx, ENOBUFS)
├── Refused     input breaks a rule; carries the object, the field and what would be accepted
└── Fatal       this process cannot go on (no CAP_NET_ADMIN, no configuration)
"""

from __future__ import annotations


class MeshError(Exception):
    """Root of every error this program raises on purpose."""


class Retriable(MeshError):
    """The same call may succeed later."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(MeshError):
    """Input breaks a rule: what was found, where it was set, what to set.

    ``reason`` is a CamelCase word that is stable over versions: it becomes the reason of a condition and the label
    of a metric. The message never contains a secret.
    """

    def __init__(self, reason: str, found: str, *, where: str, fix: str) -> None:
        super().__init__(f"{where}: {found}; {fix}")
        self.reason = reason
        self.found = found
        self.where = where
        self.fix = fix


class Fatal(MeshError):
    """This process cannot go on; a supervisor may restart it."""
