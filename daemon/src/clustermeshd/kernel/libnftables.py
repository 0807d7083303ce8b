"""The nftables library through ctypes: text commands that write tables, sets and rules.

The library and not the ``nft`` program: no process, and no parsing of its output. Not the ``nftables`` Python module
either: distributions ship it for their own Python only, and it is no more than this. Commands are text, because the
JSON schema of nftables 1.0 cannot declare a set of raw payload expressions. Reading goes by netlink (``nftdump``).
One context, and one thread at a time: the library is not thread-safe within a context.
"""

from __future__ import annotations

import ctypes
from typing import Final

from clustermeshd.model.errors import Fatal, MeshError

_SONAME: Final = "libnftables.so.1"


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
        library, context = self._library, self._context
        failed = library.nft_run_cmd_from_buffer(context, commands.encode())
        library.nft_ctx_get_output_buffer(context)  # empties it
        message: bytes = library.nft_ctx_get_error_buffer(context) or b""
        if failed:
            raise NftError(" ".join(message.decode(errors="replace").split())[:400] or "nftables refused the command")


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
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, ctypes.c_char_p]),
        ("nft_ctx_get_output_buffer", ctypes.c_char_p, [context]),
        ("nft_ctx_get_error_buffer", ctypes.c_char_p, [context]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
