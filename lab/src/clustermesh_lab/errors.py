"""One error, told in one line: what was found, where, and what to do about it."""

from __future__ import annotations


class LabError(Exception):
    """Something a person can act on. `exit_code` is what the command exits with."""

    def __init__(self, message: str, *, do: str = "", exit_code: int = 1) -> None:
        super().__init__(f"{message}: {do}" if do else message)
        self.exit_code = exit_code


class InvalidTopology(LabError):
    """A topology breaks a rule; the message names the field and what would be accepted."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


class MissingRequirement(LabError):
    """This machine lacks something the lab needs; the message names the package or setting."""

    def __init__(self, message: str, *, do: str = "") -> None:
        super().__init__(message, do=do, exit_code=3)
