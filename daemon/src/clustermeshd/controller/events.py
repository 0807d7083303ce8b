"""Kubernetes Events about objects that people wrote, each said once."""

from __future__ import annotations

import hashlib
import logging
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

    def __init__(self, client: Client, fence: Callable[[], None]) -> None:
        self._client = client
        self._fence = fence
        self._said: dict[tuple[str, str], str] = {}

    async def warn(self, thing: objects.Object, api_version: str, kind: str, reason: str, message: str) -> None:
        """An Event is help for people: a failure to write it is logged and never stops the work."""
        about = (thing.metadata.uid, reason)
        text = escape(message)[:1000]
        if self._said.get(about) == text:
            return
        if len(self._said) >= _REMEMBERED:
            self._said.pop(next(iter(self._said)))
        self._said[about] = text
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
