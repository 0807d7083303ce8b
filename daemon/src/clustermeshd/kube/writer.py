"""Brings objects about, and writes nothing that is there already.

Desired and stored are compared field by field as far as we own fields; only a difference becomes a server-side apply.
Only what carries our label is ever removed. ``fence`` is asked before every write: a replica that lost its Lease
writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from clustermeshd.kube import objects
from clustermeshd.kube.client import Client
from clustermeshd.kube.resources import Resource
from clustermeshd.model import names

_LOG = logging.getLogger(__name__)

Done = Literal["unchanged", "written", "removed", "kept"]


class Writer:
    """Writes as one field manager; ``written`` counts write requests."""

    def __init__(self, client: Client, manager: str, *, fence: Callable[[], None] | None = None) -> None:
        self.written = 0
        self._client = client
        self._manager = manager
        self._fence = fence

    async def ensure(self, resource: Resource[Any], desired: objects.Object, *, actual: objects.Object | None) -> Done:
        """Applies ``desired`` unless ``actual`` (what an informer holds) says it is so already."""
        if actual is not None and agrees(desired, actual):
            return "unchanged"
        return await self.write(resource, desired, actual=actual)

    async def write(self, resource: Resource[Any], desired: objects.Object, *, actual: objects.Object | None) -> Done:
        """Applies ``desired``; ``actual`` is what an informer holds of it."""
        self._count()
        await self._client.apply(
            resource,
            desired,
            manager=self._manager,
            name=desired.metadata.name,
            namespace=desired.metadata.namespace,
        )
        _LOG.info("%s %s %s", resource.kind, desired.key, "created" if actual is None else "updated")
        return "written"

    async def remove(self, resource: Resource[Any], thing: objects.Object) -> Done:
        """Deletes this very object if it carries our label."""
        if not is_ours(thing):
            _LOG.warning("%s %s is not ours and stays", resource.kind, thing.key)
            return "kept"
        self._count()
        await self._client.delete(
            resource, thing.metadata.name, thing.metadata.namespace, uid=thing.metadata.uid or None
        )
        _LOG.info("%s %s removed", resource.kind, thing.key)
        return "removed"

    def _count(self) -> None:
        if self._fence is not None:
            self._fence()
        self.written += 1


def is_ours(thing: objects.Object) -> bool:
    """Whether an object carries our mark."""
    return thing.labels.get(names.MANAGED_BY) == names.MANAGER


def agrees(desired: objects.Object, actual: objects.Object) -> bool:
    """Whether ``actual`` has everything that ``desired`` says: labels, annotations, owners, all other fields."""
    d, a = desired.metadata, actual.metadata
    return (
        (d.labels or {}).items() <= (a.labels or {}).items()
        and (d.annotations or {}).items() <= (a.annotations or {}).items()
        and _owners(d) <= _owners(a)
        and all(
            getattr(desired, field) == getattr(actual, field)
            for field in desired.__struct_fields__
            if field not in ("metadata", "status")
        )
    )


def _owners(metadata: objects.Metadata) -> set[str]:
    return {owner.uid for owner in metadata.owner_references or ()}
