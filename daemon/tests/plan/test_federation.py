"""Federated Services as the Calico Enterprise pages describe them."""

from ipaddress import ip_address, ip_network

import msgspec
import pytest
from clustermeshd.kube import objects
from clustermeshd.model import names
from clustermeshd.plan import federation
from clustermeshd.selector import SelectorError

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
    return federation.Cluster(
        name=name,
        services=services,
        slices=lambda s: [x for x in slices if x.labels[names.SERVICE_NAME] == s],
        owns=lambda address: address in ip_network(pods),
    )


FEDERATED = service("reviews", annotations={KEY: 'app == "reviews"'})
LOCAL = cluster(None, [service("reviews-1", {"app": "reviews"}), FEDERATED], [slice_of("reviews-1", "10.1.0.5")])
REMOTE = cluster(
    "west", [service("reviews-23", {"app": "reviews"})], [slice_of("reviews-23", "10.2.0.5", "10.2.0.6", node="w1")]
)


def federate(federated, *clusters, nodes=("n1",)):
    return federation.slices(federated, federation.selector_of(federated), clusters, dict.fromkeys(nodes))


def members(made):
    return sorted(ip for piece in made.values() for e in piece.endpoints for ip in e.addresses)


def test_endpoints_of_local_and_remote_backing_services_meet_in_slices_of_ours():
    made = federate(FEDERATED, LOCAL, REMOTE)
    assert members(made) == ["10.1.0.5", "10.2.0.5", "10.2.0.6"]
    by_cluster = {piece.labels.get(names.REMOTE_CLUSTER): piece for piece in made.values()}
    local, remote = by_cluster[None], by_cluster["west"]
    assert local.endpoints[0].node_name == "n1"
    assert local.endpoints[0].target_ref.name == "pod-10.1.0.5"
    assert remote.endpoints[0].target_ref.name == "west/pod-10.2.0.5"
    assert remote.endpoints[0].node_name == "w1"
    assert remote.endpoints[0].zone == "z1"
    assert remote.ports == (objects.EndpointPort(name="http", port=9000, protocol="TCP"),)
    for piece in made.values():
        assert piece.labels[names.SERVICE_NAME] == "reviews"
        assert piece.labels[names.SLICE_MANAGED_BY] == names.SLICE_MANAGER
        assert [owner.uid for owner in piece.metadata.owner_references] == ["uid-reviews"]


def test_a_remote_node_name_that_exists_here_is_left_out():
    made = federate(FEDERATED, LOCAL, REMOTE, nodes=("n1", "w1"))
    remote = next(piece for piece in made.values() if names.REMOTE_CLUSTER in piece.labels)
    assert {e.node_name for e in remote.endpoints} == {None}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("federation.tigera.io/remoteClusterName == 'west'", ["10.2.0.5", "10.2.0.6"]),
        ("app == 'reviews' && !has(federation.tigera.io/remoteClusterName)", ["10.1.0.5"]),
        ("app == 'reviews' && federation.tigera.io/remoteClusterName != 'west'", ["10.1.0.5"]),
        ("app == 'other'", []),
        ("all()", ["10.1.0.5", "10.2.0.5", "10.2.0.6"]),
    ],
)
def test_the_implicit_label_of_remote_services_includes_and_excludes_clusters(selector, expected):
    assert members(federate(service("reviews", annotations={KEY: selector}), LOCAL, REMOTE)) == expected


def test_ports_match_by_name_and_protocol_and_the_number_is_the_backings():
    ports = (("http", 80, "TCP"), ("dns", 53, "UDP"), ("gone", 1, "TCP"))
    backing = slice_of(
        "b", "10.1.0.5", ports=(("http", 9000, "TCP"), ("dns", 5353, "UDP"), ("dns", 54, "TCP"), ("x", 1, "TCP"))
    )
    federated = service("f", annotations={KEY: "all()"}, ports=ports)
    (made,) = federate(federated, cluster(None, [service("b")], [backing])).values()
    assert [(p.name, p.port, p.protocol) for p in made.ports] == [("http", 9000, "TCP"), ("dns", 5353, "UDP")]


def test_a_single_unnamed_port_matches_an_unnamed_port():
    federated = service("f", annotations={KEY: "all()"}, ports=((None, 80, "TCP"),))
    backing = slice_of("b", "10.1.0.5", ports=(("", 9000, "TCP"),))
    (made,) = federate(federated, cluster(None, [service("b")], [backing])).values()
    assert [(p.name, p.port) for p in made.ports] == [("", 9000)]
    (subset,) = federation.endpoints(federated, [made]).subsets
    assert subset.ports == (objects.EndpointPort(name=None, port=9000, protocol="TCP"),)


def test_a_federated_service_backs_nothing_and_other_namespaces_do_not_count():
    chain = service("chain", {"app": "reviews"}, {names.SERVICE_SELECTOR_ALIAS: "all()"})
    elsewhere = service("far", {"app": "reviews"}, namespace="other")
    slices = [slice_of("chain", "10.1.0.7"), slice_of("far", "10.1.0.8")]
    assert members(federate(FEDERATED, cluster(None, [chain, elsewhere], slices))) == []


def test_a_service_with_a_selector_or_without_the_annotation_is_not_federated():
    assert federation.selector_of(service("a")) is None
    assert federation.selector_of(service("a", annotations={KEY: "all()"}, selector={"x": "y"})) is None
    assert federation.selector_of(service("a", annotations={KEY: "all()"}, type="ExternalName")) is None
    assert federation.selector_of(service("a", annotations={names.SERVICE_SELECTOR_ALIAS: "all()"})) is not None


def test_a_bad_selector_says_where_it_is_wrong():
    with pytest.raises(SelectorError) as caught:
        federation.selector_of(service("a", annotations={KEY: "app = 'x'"}))
    assert caught.value.position == 4


@pytest.mark.parametrize("address", ["10.96.0.1", "127.0.0.1", "169.254.169.254", "192.168.0.1", "x"])
def test_a_remote_endpoint_outside_its_clusters_prefixes_is_dropped(address):
    hostile = cluster(
        "west", [service("b", {"app": "reviews"})], [slice_of("b", address, "10.2.0.5")], pods="10.2.0.0/16"
    )
    assert members(federate(FEDERATED, hostile)) == ["10.2.0.5"]


def test_long_slices_are_split_at_a_hundred_and_names_are_stable():
    ips = [f"10.1.{i // 200}.{i % 200 + 1}" for i in range(250)]
    big = cluster(None, [service("b", {"app": "reviews"})], [slice_of("b", *ips)])
    made = federate(FEDERATED, big)
    assert sorted(len(piece.endpoints) for piece in made.values()) == [50, 100, 100]
    assert members(made) == sorted(ips)
    assert made == federate(FEDERATED, big)


def test_families_the_service_does_not_have_are_left_out():
    slices = [
        slice_of("b", "10.1.0.5"),
        slice_of("b", "fd00::5", family="IPv6"),
        slice_of("b", "x.example", family="FQDN"),
    ]
    backing = cluster(None, [service("b")], slices)
    both = service("f", annotations={KEY: "all()"}, ip_families=("IPv6", "IPv4"))
    four = service("f", annotations={KEY: "all()"})
    assert members(federate(four, backing)) == ["10.1.0.5"]
    pieces = federate(
        both,
        cluster(
            None,
            [service("b")],
            [
                slices[0],
                msgspec.structs.replace(slices[1], metadata=msgspec.structs.replace(slices[1].metadata, name="b-six")),
            ],
        ),
    )
    assert members(pieces) == ["10.1.0.5", "fd00::5"]
    (subset,) = federation.endpoints(both, pieces.values()).subsets
    assert [a.ip for a in subset.addresses] == ["fd00::5"]


def test_the_endpoints_object_shows_one_subset_per_cluster_and_is_not_mirrored():
    waiting = cluster("north", [service("b", {"app": "reviews"})], [slice_of("b", "10.3.0.1", ready=False)])
    made = federation.endpoints(FEDERATED, federate(FEDERATED, LOCAL, REMOTE, waiting).values())
    assert made.labels[names.SKIP_MIRROR] == "true"
    assert made.annotations[KEY] == 'app == "reviews"'
    shown = [([a.ip for a in s.addresses or ()], [a.ip for a in s.not_ready_addresses or ()]) for s in made.subsets]
    assert shown == [(["10.1.0.5"], []), ([], ["10.3.0.1"]), (["10.2.0.5", "10.2.0.6"], [])]


def test_the_endpoints_object_holds_a_thousand_addresses_at_most():
    slices = [slice_of("b", *[f"10.{i}.{j}.1" for j in range(100)]) for i in range(12)]
    slices = [
        msgspec.structs.replace(s, metadata=msgspec.structs.replace(s.metadata, name=f"b-{i}"))
        for i, s in enumerate(slices)
    ]
    made = federate(FEDERATED, cluster(None, [service("b", {"app": "reviews"})], slices))
    assert len(members(made)) == 1200
    assert sum(len(s.addresses) for s in federation.endpoints(FEDERATED, made.values()).subsets) == 1000


def test_owns_is_asked_with_addresses_never_with_text():
    seen = []
    remote = federation.Cluster(
        "w",
        [service("b", {"app": "reviews"})],
        lambda _: [slice_of("b", "10.2.0.5")],
        lambda a: bool(seen.append(a)) or True,
    )
    federate(FEDERATED, remote)
    assert seen == [ip_address("10.2.0.5")]
