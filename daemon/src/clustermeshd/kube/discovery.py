"""Which kinds a server has: what its discovery documents say of groups, versions and kinds."""

from __future__ import annotations

from typing import Any

from clustermeshd.kube import bodies, errors
from clustermeshd.kube.client import Client
from clustermeshd.kube.objects import Struct
from clustermeshd.kube.resources import Resource


class _Kind(Struct, frozen=True):
    name: str = ""


class _KindList(Struct, frozen=True):
    """The kinds of one group and version."""

    kind: str = ""
    group_version: str = ""
    resources: tuple[_Kind, ...] | None = None


class _Version(Struct, frozen=True):
    group_version: str = ""


class _Group(Struct, frozen=True):
    versions: tuple[_Version, ...] | None = None


class _GroupList(Struct, frozen=True):
    """Every group with its versions."""

    kind: str = ""
    groups: tuple[_Group, ...] | None = None


async def serves(client: Client, resource: Resource[Any]) -> bool:
    """Whether the server has a kind.

    A 404 alone says nothing: a proxy may have made it. False needs a discovery document that lists other kinds of the
    group, or other groups; without one the error tells why it is not known.
    """
    try:
        body = await client.request("GET", resource.home)
    except errors.NotFound as error:
        groups = bodies.decode(await client.request("GET", "/apis"), _GroupList, "/apis")
        bodies.expect(groups.kind, "APIGroupList", "/apis")
        versions = {version.group_version for group in groups.groups or () for version in group.versions or ()}
        if not versions or resource.api_version in versions:
            raise error from None
        return False
    found = bodies.decode(body, _KindList, resource.home)
    bodies.expect(found.kind, "APIResourceList", resource.home)
    plurals = {one.name for one in found.resources or ()}
    if not plurals or found.group_version != resource.api_version:
        raise errors.Rejected("AnswerInvalid", "no discovery", where=resource.home, fix="is this a Kubernetes API?")
    return resource.plural in plurals
