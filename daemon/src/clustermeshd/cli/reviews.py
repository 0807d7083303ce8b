"""Asks API servers who may do what: SelfSubjectAccessReview for a credential in hand, SubjectAccessReview for another.

What the controller reads of a peer is written down here once more, beside the role that grants it
(plugins/module_utils/_access.py, REMOTE_RULES); a test holds the two together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import UNDECODABLE, Rejected
from clustermeshd.model import names

_PATH = "/apis/authorization.k8s.io/v1"


class Right(NamedTuple):
    """One verb on one resource, in all namespaces unless one is named."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {kind}"


def reading(group: str, *kinds: str) -> tuple[Right, ...]:
    """What an informer needs."""
    return tuple(Right(verb, group, kind) for kind in kinds for verb in ("get", "list", "watch"))


NEEDED: Final = reading("", "namespaces", "nodes", "services") + reading("discovery.k8s.io", "endpointslices")
"""Without one of these a peer does not come in sync."""
WANTED: Final = reading("", "pods", "serviceaccounts")
"""Without one of these ``clustermesh eval`` and policy know less of a peer."""
EXCESSIVE: Final = (
    Right("list", "", "secrets"),
    Right("create", "", "pods"),
    Right("patch", "", "nodes"),
    Right("*", "*", "*"),
)
"""Signs of a credential that can do more than a peer should give away."""


class _Status(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _Status = _Status()


async def own(client: Client, rights: tuple[Right, ...]) -> dict[Right, bool]:
    """Which of the rights the client's own credential has."""
    answers = await asyncio.gather(*(_review(client, "SelfSubjectAccessReview", {}, right) for right in rights))
    return dict(zip(rights, answers, strict=True))


async def controller(client: Client, rights: tuple[Right, ...]) -> dict[Right, bool]:
    """Which of the rights the ServiceAccount of this cluster's controller has; asking needs a right itself."""
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{names.NAMESPACE}", "system:authenticated"]
    user = {"user": f"system:serviceaccount:{names.NAMESPACE}:{names.CONTROLLER_ACCOUNT}", "groups": groups}
    answers = await asyncio.gather(*(_review(client, "SubjectAccessReview", user, right) for right in rights))
    return dict(zip(rights, answers, strict=True))


async def _review(client: Client, kind: str, who: Mapping[str, object], right: Right) -> bool:
    attributes = {key: value for key, value in right._asdict().items() if value}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": {**who, "resourceAttributes": attributes}}
    answer = await client.request("POST", f"{_PATH}/{kind.lower()}s", body=msgspec.json.encode(body))
    try:
        return msgspec.json.decode(answer, type=_Review).status.allowed
    except UNDECODABLE as error:
        raise Rejected("AnswerInvalid", str(error), where=kind, fix="is this a Kubernetes API?") from error
