"""When a token that is kept counts as accepted."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from ansible_collections.clustermesh.core.plugins.module_utils import _tokens
from ansible_collections.clustermesh.core.plugins.module_utils._client import Refused, Unreachable

TOKEN = "eyJ0.eyJ1.c2ln"


@dataclass
class Server:
    """What an API server answers to the token alone, and to the administrator's review of it."""

    to_token: int
    review: int | bool = False
    server: str = "https://paris:6443"
    asked: list[str] = field(default_factory=list)

    def by_token(self, token: str) -> Server:
        self.asked.append(token)
        return self

    def request(self, method: str, path: str, body: dict | None = None) -> dict:
        if body is None:
            return self._answer(self.to_token, path)
        assert body["spec"] == {"token": TOKEN}
        if not isinstance(self.review, bool):
            return self._answer(self.review, path)
        return {"status": {"authenticated": True} if self.review else {"error": "unknown"}}

    def _answer(self, status: int, path: str) -> dict:
        if not status:
            raise Unreachable("paris:6443 does not answer: timed out")
        if status >= 400:
            raise Refused(f"{self.server} answers GET {path}: {status}", status)
        return {}


class Module:
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.mark.parametrize(
    ("server", "is_accepted", "warning"),
    [
        (Server(200), True, ""),
        (Server(403), True, ""),
        (Server(401, review=False), False, ""),
        (Server(401, review=403), False, ""),
        (Server(401, review=True), True, "something in between"),
        (Server(503), True, "not known to be accepted: https://paris:6443 answers GET /version: 503"),
        (Server(404), True, "not known to be accepted"),
        (Server(0), True, "not known to be accepted: paris:6443 does not answer: timed out"),
    ],
)
def test_a_token_is_replaced_only_when_the_api_server_itself_refuses_it(server, is_accepted, warning):
    module = Module()
    assert _tokens.is_accepted(module, server, "clustermesh-remote", TOKEN) is is_accepted
    assert len(module.warned) == bool(warning)
    assert all(warning in text and TOKEN not in text for text in module.warned)


@pytest.mark.parametrize("text", ["a\nb.c.d", "a b", "\ufffd", f"{TOKEN}\n"])
def test_what_cannot_be_a_token_is_not_sent(text):
    server = Server(200)
    assert not _tokens.is_accepted(Module(), server, "clustermesh-remote", text)
    assert server.asked == []
