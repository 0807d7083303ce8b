"""Brings objects about, and writes nothing that is there already.

Desired and stored are compared field by field as far as we own fields; only a difference becomes a server-side apply,
or an update where an object is large and wholly ours. Only what carries our label is ever removed. ``fence`` is asked
before every write: a replica that lost its Lease writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Literal

import msgspec

from clustermeshd.kube import objects
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Conflict, NotFound
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
        await self.write(resource, desired, actual=actual)
        return "written"

    async def write(self, resource: Resource[Any], desired: objects.Object, *, actual: objects.Object | None) -> str:
        """Applies ``desired``; ``actual`` is what an informer holds of it. Returns its resourceVersion."""
        self._count()
        made = await self._client.apply(
            resource.bare,
            desired,
            manager=self._manager,
            name=desired.metadata.name,
            namespace=desired.metadata.namespace,
        )
        _LOG.info("%s %s %s", resource.kind, desired.key, "created" if actual is None else "updated")
        return made.metadata.resource_version

    async def replace(
        self,
        resource: Resource[Any],
        desired: objects.Object,
        *,
        actual: objects.Object | None,
        annotations: Collection[str],
    ) -> str:
        """Updates an object whose content is all ours; it costs the server half of an apply when there is much of it.

        What others added to its metadata stays; of ``annotations``, which are ours, those go that ``desired`` has not.
        Where somebody wrote in between, or it is gone or not there yet, it is applied. Returns its resourceVersion.
        """
        if actual is not None and actual.metadata.resource_version:
            self._count()
            body = msgspec.structs.replace(desired, metadata=_merged(desired.metadata, actual.metadata, annotations))
            meta = desired.metadata
            try:
                made = await self._client.replace(
                    resource.bare, body, meta.name, meta.namespace, manager=self._manager
                )
            except (Conflict, NotFound) as error:
                _LOG.debug("%s %s is applied: %s", resource.kind, desired.key, error)
            else:
                _LOG.info("%s %s updated", resource.kind, desired.key)
                return made.metadata.resource_version
        return await self.write(resource, desired, actual=actual)

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


def _merged(desired: objects.Metadata, actual: objects.Metadata, ours: Collection[str]) -> objects.Metadata:
    """``desired``, of that very object in that very version, with what is not ours kept."""
    owners = {owner.uid: owner for owner in (*(actual.owner_references or ()), *(desired.owner_references or ()))}
    others = {key: value for key, value in (actual.annotations or {}).items() if key not in ours}
    return msgspec.structs.replace(
        desired,
        uid=actual.uid,
        resource_version=actual.resource_version,
        labels={**(actual.labels or {}), **(desired.labels or {})},
        annotations={**others, **(desired.annotations or {})} or None,
        owner_references=tuple(owners.values()) or None,
        finalizers=actual.finalizers,
    )


def _owners(metadata: objects.Metadata) -> set[str]:
    return {owner.uid for owner in metadata.owner_references or ()}
