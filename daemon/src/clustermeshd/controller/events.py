"""Kubernetes Events about objects that people wrote, each said once, however long its reason lasts."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.model import names
from clustermeshd.model.errors import MeshError
from clustermeshd.runtime.logs import escape

_LOG = logging.getLogger(__name__)

_REMEMBERED = 10_000


class Events:
    """Writes a Warning when its text for an object is new; ``fence`` raises where this replica does not lead."""

    def __init__(
        self, client: Client, fence: Callable[[], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._fence = fence
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[str, float]] = {}

    async def warn(
        self, thing: objects.Object, api_version: str, kind: str, reason: str, message: str, *, rest_s: float = 0
    ) -> None:
        """An Event is help for people: a failure to write it is logged and never stops the work.

        ``rest_s``: another text for the same object and reason waits so long, since somebody else may change it.
        """
        about = (thing.metadata.uid, reason)
        text = escape(message)[:1000]
        said, at = self._said.pop(about, ("", 0.0))
        is_new = text != said and (not said or self._clock() >= at + rest_s)
        if len(self._said) >= _REMEMBERED:
            self._said.pop(next(iter(self._said)))
        self._said[about] = (text, self._clock()) if is_new else (said, at)
        if not is_new:
            return
        _LOG.warning("%s %s: %s: %s", kind, thing.key, reason, text)
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        namespace = thing.metadata.namespace or "default"
        name = f"{thing.metadata.name[:200]}.{hashlib.sha256(f'{about}{text}'.encode()).hexdigest()[:16]}"
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": api_version,
                "kind": kind,
                "name": thing.metadata.name,
                "namespace": thing.metadata.namespace or "",
                "uid": thing.metadata.uid,
                "resourceVersion": thing.metadata.resource_version,
            },
            "type": "Warning",
            "reason": reason,
            "message": text,
            "source": {"component": names.CONTROLLER_MANAGER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._fence()
            await self._client.apply(
                resources.EVENTS, body, manager=names.CONTROLLER_MANAGER, name=name, namespace=namespace
            )
        except MeshError as error:
            _LOG.debug("Event not written: %s", error)
