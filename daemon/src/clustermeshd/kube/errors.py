"""What an API server's refusal means, as families that callers treat differently (on top of model.errors).

Retriable
├── Unreachable    no answer: connection refused, reset, timed out, TLS not established
├── Busy           429 and 5xx; carries Retry-After
├── Conflict       409: somebody wrote in between
├── Expired        410: the resourceVersion is no longer kept
├── Unauthorized   401: the credential is not accepted (any more); a new one may be
├── Forbidden      403: the credential lacks a right; somebody may grant it
└── NotFound       404: no such object, or no such kind
Refused
├── Rejected       400, 422 and other 4xx, redirects: the request itself is wrong
│   └── TooLarge   the answer is longer than anybody should hold in memory
└── Untrusted      the certificate of the server is not the one that the given CA vouches for
"""

from __future__ import annotations

from typing import Final

import msgspec

from clustermeshd.kube.objects import Status
from clustermeshd.model.errors import MeshError, Refused, Retriable

UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding bytes from outside may raise: invalid UTF-8 and deep nesting come as classes of their own."""


class Unreachable(Retriable):
    """The server gave no answer."""


class Busy(Retriable):
    """The server asks to come back later."""


class Conflict(Retriable):
    """The object was written by somebody else in between."""


class Expired(Retriable):
    """The resourceVersion is too old: list again."""


class Unauthorized(Retriable):
    """The credential is not accepted."""


class Forbidden(Retriable):
    """The credential lacks a right."""


class NotFound(Retriable):
    """There is no such object or kind."""


class Rejected(Refused):
    """The request itself is wrong; repeating it changes nothing."""


class TooLarge(Rejected):
    """The answer is longer than anybody should hold in memory."""


class Untrusted(Refused):
    """The server's certificate is not trusted by the CA of the kubeconfig."""


_BY_CODE: dict[int, type[Retriable]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    429: Busy,
}
_MAX_MESSAGE = 500
_MAX_RETRY_AFTER_S = 60.0


def of_status(code: int, body: bytes, what: str, *, retry_after: str | None = None) -> MeshError:
    """Error of an HTTP answer; ``what`` says which request it was, ``body`` is a metav1.Status or anything."""
    try:
        told = msgspec.json.decode(body, type=Status).message
    except UNDECODABLE:
        told = body[:_MAX_MESSAGE].decode(errors="replace")
    message = f"{what}: HTTP {code}: {told[:_MAX_MESSAGE]}".rstrip(": ")
    family = _BY_CODE.get(code, Busy if code >= 500 else None)
    if family is None:
        return Rejected("RequestRejected", f"HTTP {code}: {told[:_MAX_MESSAGE]}", where=what, fix="see the message")
    return family(message, retry_after_s=_seconds(retry_after))


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After as seconds; API servers send no dates, and nobody is waited for longer than a minute."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return None
    return min(float(retry_after), _MAX_RETRY_AFTER_S)
