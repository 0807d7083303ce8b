"""EndpointSlices of a peer, as they may enter slices of ours, in the memory they need.

What does not depend on anything here is decided once, when a slice is read: a peer may lie about every field, and each
of its hundred thousand endpoints is looked at again whenever its Service is planned. Whose the addresses are, and
which node names exist here too, is for ``plan.federation``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.plan.admission import MAX_NAME, is_subdomain

_MAX_TARGET = 1024  # characters of a targetRef's name
_CONDITIONS: dict[objects.EndpointConditions, objects.EndpointConditions] = {}  # at most 27


def entered(piece: objects.EndpointSlice, cluster: str) -> objects.EndpointSlice:
    """A slice of the peer that is called ``cluster`` here; names that Kubernetes would refuse are left out of it.

    What is not federated goes, what many endpoints have in common is held once, and a targetRef names the cluster.
    """
    meta = piece.metadata
    trigger = piece.annotations.get(names.LAST_CHANGE_TRIGGER)
    return objects.EndpointSlice(
        metadata=objects.Metadata(
            name=meta.name,
            namespace=None if meta.namespace is None else sys.intern(meta.namespace),
            resource_version=meta.resource_version,
            labels={names.SERVICE_NAME: sys.intern(piece.labels.get(names.SERVICE_NAME, ""))},
            annotations={names.LAST_CHANGE_TRIGGER: trigger} if trigger else None,
        ),
        address_type=piece.address_type,
        endpoints=tuple(_entered(piece.endpoints or (), f"{cluster}/")),
        ports=piece.ports,
    )


def _entered(endpoints: Iterable[objects.Endpoint], prefix: str) -> Iterator[objects.Endpoint]:
    """One loop with few calls of our own: there are so many of them."""
    intern, conditions = sys.intern, _CONDITIONS
    for endpoint in endpoints:
        hostname, node, zone, target = endpoint.hostname, endpoint.node_name, endpoint.zone, endpoint.target_ref
        yield objects.Endpoint(
            endpoint.addresses,
            conditions.setdefault(endpoint.conditions, endpoint.conditions),
            hostname if hostname and _is_label(hostname) else None,
            intern(node) if node and is_subdomain(node) else None,
            intern(zone) if zone and len(zone) <= MAX_NAME else None,
            target
            and objects.ObjectReference(
                intern(target.kind), f"{prefix}{target.name}"[:_MAX_TARGET], intern(target.namespace)
            ),
        )


def _is_label(text: str) -> bool:
    """RFC 1123 label: what the API server admits as a hostname."""
    return len(text) <= 63 and "." not in text and is_subdomain(text)
