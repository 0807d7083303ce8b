"""What goes over the wire: documents that are written, answers and pages that are read, whatever is in them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from clustermeshd.kube import errors, objects
from clustermeshd.kube.leftout import Why
from clustermeshd.kube.resources import Resource

_LOG = logging.getLogger(__name__)

T = TypeVar("T", bound=objects.Object)
S = TypeVar("S")

JSON = "application/json"
_BARE = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1, {JSON}"  # where only metadata is read of an answer


def accept(resource: Resource[Any]) -> str:
    """What the answer to a write is to be: no more of the object than is read of it."""
    return _BARE if resource.type is objects.Object else JSON


def document(resource: Resource[Any], body: Mapping[str, Any] | objects.Object) -> bytes:
    """An object as it is written; one of ours stands behind its kind as it encodes, without dicts in between."""
    kind = {"apiVersion": resource.api_version, "kind": resource.kind}
    if isinstance(body, Mapping):
        return msgspec.json.encode({**kind, **body})
    return msgspec.json.encode(kind)[:-1] + b"," + msgspec.json.encode(body)[1:]


def decode(body: bytes, kind: type[S], what: str) -> S:
    """An answer; Rejected where it is none of that kind."""
    try:
        return msgspec.json.decode(body, type=kind)
    except errors.UNDECODABLE as error:
        raise errors.Rejected("AnswerInvalid", str(error), where=what, fix="is this a Kubernetes API?") from error


def page(
    body: bytes,
    resource: Resource[T],
    decoder: msgspec.json.Decoder[objects.ObjectList[T]],
    max_object_bytes: int,
    on_skip: Callable[[str, Why], None],
) -> objects.ObjectList[T]:
    """A page at once where it can be, else object by object: what is too large or does not decode is left out.

    Rejected where it is no list of that kind: ``{}`` and a list of something else would pass for an empty one.
    """
    if len(body) <= max_object_bytes:
        with suppress(*errors.UNDECODABLE):
            whole = decoder.decode(body)
            expect(whole.kind, f"{resource.kind}List", resource.path())
            return whole
    raw = decode(body, objects.RawList, resource.kind)
    expect(raw.kind, f"{resource.kind}List", resource.path())
    items = []
    for item in raw.items or ():
        if len(memoryview(item)) > max_object_bytes:
            on_skip(key_of(item), too_large(item, max_object_bytes))
            continue
        try:
            items.append(msgspec.json.decode(item, type=resource.type))
        except errors.UNDECODABLE as error:
            on_skip(key_of(item), unreadable(error))
    return objects.ObjectList(kind=raw.kind, metadata=raw.metadata, items=tuple(items))


def expect(kind: str, wanted: str, what: str) -> None:
    """Rejected where an answer is of another kind."""
    if kind != wanted:
        found = f"a document of kind {kind[:64]!r} in place of {wanted!r}"
        raise errors.Rejected("AnswerInvalid", found, where=what, fix="is this a Kubernetes API?")


class _Name(objects.Struct, frozen=True):
    name: str = ""
    namespace: str | None = None
    resource_version: str = ""


class _Named(objects.Struct, frozen=True):
    metadata: _Name = _Name()


def named(item: msgspec.Raw) -> objects.Object | None:
    """Name and version of an object that did not decode; None where even that cannot be read."""
    try:
        meta = msgspec.json.decode(item, type=_Named).metadata
    except errors.UNDECODABLE:
        return None
    return objects.Object(objects.Metadata(meta.name, meta.namespace, resource_version=meta.resource_version))


def key_of(item: msgspec.Raw) -> str:
    """Key of an object that did not decode, or ""."""
    found = named(item)
    return "" if found is None else found.key


def too_large(item: msgspec.Raw, limit: int) -> Why:
    return Why(reason="ObjectTooLarge", message=f"it has {len(memoryview(item))} bytes, more than {limit}")


def unreadable(error: Exception) -> Why:
    return Why(reason="ObjectUnreadable", message=str(error))


def log_skip(resource: Resource[Any]) -> Callable[[str, Why], None]:
    """What becomes of an object that is left out where nobody asks for it."""
    return lambda key, why: _LOG.warning("%s %s left out: %s", resource.kind, key, why.message)
