"""The few calls the lab itself makes to an API server, with the standard library only.

Starting kubectl costs 150 ms of a core and the lab asks several times a second while a cluster comes up; programs
inside a node cannot count on any installed package. Answers are plain JSON values: nothing here outlives one call.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from .errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JSON = dict[str, Any]
UNREACHABLE = (OSError, http.client.HTTPException)


class ApiError(LabError):
    """The API server answered, and the answer was no."""

    def __init__(self, status: int, path: str, body: str) -> None:
        try:
            reason = str(json.loads(body).get("message", body))
        except ValueError:
            reason = body
        super().__init__(f"the API server answered {status} to {path}: {reason[:300]}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Api:
    """An API server and the certificate to show it."""

    url: str
    ca: Path
    certificate: Path
    key: Path
    timeout_s: float = 10

    def _connection(self, timeout_s: float) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        address = urlsplit(self.url)
        return http.client.HTTPSConnection(address.hostname or "", address.port, timeout=timeout_s, context=context)

    def raw(self, method: str, path: str, body: str | None = None, content_type: str = "application/json") -> str:
        """One call; the text of the answer. Raises ApiError for a refusal, OSError when nobody answers.

        A server that says when to ask again (429, RFC 6585: one that has just started does) is asked again.
        """
        deadline = time.monotonic() + self.timeout_s
        while True:
            answer, text = self._ask(method, path, body, content_type)
            if answer.status < 400:
                return text
            pause_s = int(answer.getheader("Retry-After", "1"))
            if answer.status != http.client.TOO_MANY_REQUESTS or time.monotonic() + pause_s > deadline:
                raise ApiError(answer.status, path, text)
            time.sleep(pause_s)

    def _ask(
        self, method: str, path: str, body: str | None, content_type: str
    ) -> tuple[http.client.HTTPResponse, str]:
        connection = self._connection(self.timeout_s)
        try:
            connection.request(method, path, body, {"Content-Type": content_type, "Accept": "application/json"})
            answer = connection.getresponse()
            return answer, answer.read().decode()
        finally:
            connection.close()

    def get(self, path: str) -> JSON:
        """GET as JSON."""
        value: JSON = json.loads(self.raw("GET", path))
        return value

    def is_ready(self) -> bool:
        """Whether /readyz says ok."""
        try:
            return self.raw("GET", "/readyz") == "ok"
        except (*UNREACHABLE, ApiError):
            return False

    def apply(self, path: str, obj: JSON) -> None:
        """Server-side apply of one object to its collection's path."""
        name = quote(obj["metadata"]["name"], safe="")
        self.raw(
            "PATCH",
            f"{path}/{name}?fieldManager=clustermesh-lab&force=true",
            json.dumps(obj),
            "application/apply-patch+yaml",
        )

    def watch(self, path: str, resource_version: str, *, timeout_s: int = 300) -> Iterator[JSON]:
        """Events of a collection until the server ends the watch."""
        connection = self._connection(timeout_s + 15)
        try:
            query = f"watch=1&allowWatchBookmarks=true&resourceVersion={resource_version}&timeoutSeconds={timeout_s}"
            connection.request("GET", f"{path}?{query}")
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise ApiError(answer.status, path, answer.read().decode())
            for line in answer:
                yield json.loads(line)
        finally:
            connection.close()
