"""What is ours, as our own API server tells it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from clustermeshd.controller.local import LocalFacts
from clustermeshd.kube import objects
from clustermeshd.model.addresses import parse_prefix


def facts(told: list[str]) -> LocalFacts:
    return LocalFacts(
        SimpleNamespace(server="https://own"),
        configurations_changed=lambda: None,
        nodes_changed=lambda: told.append("nodes"),
        services_changed=lambda name: None,
        output_changed=lambda name: None,
    )


def service(name: str, *ips: str) -> objects.Service:
    return objects.Service(
        metadata=objects.Metadata(name=name, namespace="shop"),
        spec=objects.ServiceSpec(cluster_ip=ips[0], cluster_ips=ips),
    )


def is_ours(local: LocalFacts, cidr: str) -> bool:
    return local.networks().collision(parse_prefix(cidr)) is not None


def test_the_addresses_of_services_are_ours_where_no_service_cidr_is_served():
    told: list[str] = []
    local = facts(told)
    assert not is_ours(local, "10.96.0.0/12")
    local.service_informer._stored(service("a", "10.96.0.1", "fd00:96::1"))
    assert told == ["nodes"], "what peers claim is asked again"
    assert is_ours(local, "10.96.0.0/12")
    assert is_ours(local, "fd00:96::/112")
    local.service_informer._stored(service("headless", "None"))
    assert told == ["nodes"]
    local.service_informer._deleted("shop/a")
    assert told == ["nodes"] * 2
    assert not is_ours(local, "10.96.0.0/12")


@pytest.mark.parametrize("ip", ["10.96.0.1", "10.96.255.254"])
def test_services_that_come_and_go_inside_a_known_cidr_plan_nothing(ip):
    told: list[str] = []
    local = facts(told)
    local.service_cidrs._stored(
        objects.ServiceCIDR(metadata=objects.Metadata(name="c"), spec=objects.ServiceCIDRSpec(cidrs=("10.96.0.0/16",)))
    )
    told.clear()
    local.service_informer._stored(service("a", ip))
    local.service_informer._deleted("shop/a")
    assert told == []
