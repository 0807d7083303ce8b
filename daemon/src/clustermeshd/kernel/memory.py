"""Dumps that say the same as last time need not be taken apart again.

After a comparison that found a kind of object as wanted, the wanted objects stand for the dump that they were compared
with. While a later dump has the same bytes, ages aside, they are what the kernel holds. Any write or change of plan
makes it all forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def fingerprint(parts: Iterable[bytes], context: object = None) -> bytes:
    """Digest of all bytes and of what else their meaning depends on."""
    digest = hashlib.sha256(repr(context).encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


class Memory:
    """By kind of object."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[bytes, Any]] = {}  # digest of the last dump, and what it said beside our objects
        self._known: dict[str, tuple[bytes, Any, Any]] = {}

    def recall(self, kind: str, digest: bytes, parse: Callable[[], tuple[T, Any]]) -> tuple[T, Any]:
        """Our objects of a kind, and what else the dump said, from memory or else from ``parse``."""
        known = self._known.get(kind)
        if known is not None and known[0] == digest:
            self._read[kind] = (digest, known[2])
            return known[1], known[2]
        found, beside = parse()
        self._read[kind] = (digest, beside)
        return found, beside

    def confirm(self, wanted: Mapping[str, Any]) -> None:
        """The last dumps of these kinds are equal to what is wanted."""
        for kind, objects in wanted.items():
            if kind in self._read:
                digest, beside = self._read[kind]
                self._known[kind] = (digest, objects, beside)

    def forget(self) -> None:
        self._known.clear()
