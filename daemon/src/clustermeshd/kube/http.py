"""aiohttp, imported without the certificates of the system.

It reads them when it is imported, which costs each start some 50 ms, and nothing may be trusted by them here: an API
server is known by the CA that its kubeconfig names. Programs that we start see the environment as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # where OpenSSL looks before its own default


@contextmanager
def _without_system_roots() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(dict.fromkeys(_NAMES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _without_system_roots():
    import aiohttp

__all__ = ["aiohttp"]
