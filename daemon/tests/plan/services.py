"""What tests of federated Services share: Services, slices and clusters, and plans over them."""

from __future__ import annotations

from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.model.addresses import Ranges, parse_prefix
from clustermeshd.plan import federation
from clustermeshd.plan.entering import entered

KEY = names.SERVICE_SELECTOR


def service(name, labels=None, annotations=None, ports=(("http", 80, "TCP"),), namespace="shop", **spec):
    return objects.Service(
        metadata=objects.Metadata(
            name=name, namespace=namespace, uid=f"uid-{name}", labels=labels, annotations=annotations
        ),
        spec=objects.ServiceSpec(
            ports=tuple(objects.ServicePort(name=n, port=p, protocol=proto) for n, p, proto in ports),
            ip_families=spec.pop("ip_families", ("IPv4",)),
            **spec,
        ),
    )


def slice_of(name, *ips, ports=(("http", 9000, "TCP"),), node="n1", family="IPv4", ready=True, kind="Pod"):
    return objects.EndpointSlice(
        metadata=objects.Metadata(name=f"{name}-abc", namespace="shop", labels={names.SERVICE_NAME: name}),
        address_type=family,
        endpoints=tuple(
            objects.Endpoint(
                addresses=(ip,),
                conditions=objects.EndpointConditions(ready=ready),
                node_name=node,
                zone="z1",
                target_ref=objects.ObjectReference(kind=kind, name=f"pod-{ip}", namespace="shop", uid="u"),
            )
            for ip in ips
        ),
        ports=tuple(objects.EndpointPort(name=n, port=p, protocol=proto) for n, p, proto in ports),
    )


def cluster(name, services, slices, pods="10.0.0.0/8"):
    return name or "", services, slices, Ranges([parse_prefix(pods)])


FEDERATED = service("reviews", annotations={KEY: 'app == "reviews"'})
LOCAL = cluster(None, [service("reviews-1", {"app": "reviews"}), FEDERATED], [slice_of("reviews-1", "10.1.0.5")])
REMOTE = cluster(
    "west", [service("reviews-23", {"app": "reviews"})], [slice_of("reviews-23", "10.2.0.5", "10.2.0.6", node="w1")]
)


def plan(federated, *clusters, nodes=("n1",), stale=None, kept=()):
    """Plan of a Service over clusters, backing Services chosen as the controller does."""
    selector, backings = federation.selector_of(federated), []
    for name, services, slices, owned in clusters:
        chosen = {
            s.metadata.name
            for s in services
            if s.metadata.namespace == federated.metadata.namespace
            and (labels := federation.backing_labels(s, name)) is not None
            and selector.matches(labels)
        }
        pieces = [s for s in slices if s.labels[names.SERVICE_NAME] in chosen]
        pieces = [entered(piece, name) for piece in pieces] if name else pieces
        backings.append(federation.Backing(name, pieces, owned.holds_all, (stale or {}).get(name, "")))
    return federation.plan(federated, [*backings, *kept], nodes)


def federate(federated, *clusters, **options):
    return plan(federated, *clusters, **options).slices


def members(made):
    return sorted(ip for piece in made.values() for e in piece.endpoints for ip in e.addresses)


def conditions(made):
    return {ip: e.conditions.ready for piece in made.values() for e in piece.endpoints for ip in e.addresses}
