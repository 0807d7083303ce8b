"""The nftables library through ctypes: text commands in, JSON listings out.

The library and not the ``nft`` program: a one-element change costs 0.1 ms instead of a process. Not the ``nftables``
Python module either: distributions ship it for their own Python only, and it is no more than this. Commands are text,
because the JSON schema of nftables 1.0 cannot declare a set of raw payload expressions.
One context, and one thread at a time: the library is not thread-safe within a context.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any, Final

from clustermeshd.model.errors import Fatal, MeshError

_SONAME: Final = "libnftables.so.1"
_OUTPUT_JSON: Final = 1 << 4
_OUTPUT_TERSE: Final = 1 << 11  # sets without their elements


class NftError(MeshError):
    """A command was refused; the message is the library's own. Nothing of its transaction took effect."""


class Nft:
    """A library context in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        self._library = _load()
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        if not self._context:
            raise Fatal(f"{_SONAME}: no context (is CAP_NET_ADMIN missing?)")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = ctypes.c_void_p()

    def run(self, commands: str) -> None:
        """Execute commands as one transaction: all or nothing."""
        self._run(commands, 0)

    def list(self, command: str) -> list[dict[str, Any]]:
        """Objects that a ``list`` command gives, as JSON without set elements; empty where there is none."""
        try:
            text = self._run(command, _OUTPUT_JSON | _OUTPUT_TERSE)
        except NftError as error:
            if "No such file or directory" in str(error):
                return []
            raise
        found: list[dict[str, Any]] = json.loads(text)["nftables"] if text else []
        return found

    def _run(self, commands: str, flags: int) -> str:
        library, context = self._library, self._context
        library.nft_ctx_output_set_flags(context, flags)
        failed = library.nft_run_cmd_from_buffer(context, commands.encode())
        output: bytes = library.nft_ctx_get_output_buffer(context) or b""
        message: bytes = library.nft_ctx_get_error_buffer(context) or b""
        if failed:
            raise NftError(" ".join(message.decode(errors="replace").split())[:400] or "nftables refused the command")
        return output.decode()


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_SONAME)
    except OSError as error:
        raise Fatal(f"{_SONAME} cannot be loaded ({error}); install the package libnftables1 or nftables") from error
    context = ctypes.c_void_p
    for name, result, arguments in (
        ("nft_ctx_new", context, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [context]),
        ("nft_ctx_buffer_output", ctypes.c_int, [context]),
        ("nft_ctx_buffer_error", ctypes.c_int, [context]),
        ("nft_ctx_output_set_flags", None, [context, ctypes.c_uint]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, ctypes.c_char_p]),
        ("nft_ctx_get_output_buffer", ctypes.c_char_p, [context]),
        ("nft_ctx_get_error_buffer", ctypes.c_char_p, [context]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
