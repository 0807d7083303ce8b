"""What the controller watches in its own cluster."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from clustermeshd.controller.facts import ServiceFacts, ServiceName, slim_service
from clustermeshd.controller.prefixes import PrefixSource
from clustermeshd.controller.written import Written, WrittenSlices, summary
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.informer import Change, Informer, when_other
from clustermeshd.kube.resources import Resource
from clustermeshd.model import names
from clustermeshd.model.addresses import Ranges, parse_address, parse_network, parse_prefix
from clustermeshd.plan.admission import LocalNetworks, cluster_ips
from clustermeshd.plan.configurations import from_calico, merged
from clustermeshd.plan.ipam import spec_cidrs

_OURS = f"{names.MANAGED_BY}={names.MANAGER}"


class LocalFacts:
    """Informers on the local API server, and the values that planning asks for."""

    def __init__(
        self,
        client: Client,
        *,
        configurations_changed: Callable[[], None],
        nodes_changed: Callable[[], None],
        services_changed: Callable[[ServiceName], None],
        output_changed: Callable[[ServiceName], None],
    ) -> None:
        def touched(_: object) -> None:
            nodes_changed()

        def endpoints_changed(change: Change[Written]) -> None:
            changed = change.new or change.old
            if changed is not None:
                output_changed(ServiceName(changed.metadata.namespace or "", changed.metadata.name))

        def service_changed(change: Change[objects.Service]) -> None:
            self.services.on_service(change)
            if change.differs_in(cluster_ips) and not self._are_known(change):
                nodes_changed()

        self.services = ServiceFacts(services_changed)
        self.written = WrittenSlices(output_changed)
        self.configurations: Informer[objects.RemoteClusterConfiguration] = Informer(
            client, resources.REMOTE_CLUSTER_CONFIGURATIONS, on_change=lambda _: configurations_changed()
        )
        self.calico_configurations: Informer[objects.RemoteClusterConfiguration] = Informer(
            client,
            _converted(resources.CALICO_REMOTE_CLUSTER_CONFIGURATIONS),
            on_change=lambda _: configurations_changed(),
            keep=from_calico,
        )
        self.nodes: Informer[objects.Node] = Informer(
            client, resources.NODES, on_change=when_other(nodes_changed, lambda node: (node.spec, node.status))
        )
        self.service_cidrs: Informer[objects.ServiceCIDR] = Informer(
            client, resources.SERVICE_CIDRS, on_change=touched
        )
        self.pools: tuple[Informer[objects.IPPool], ...] = tuple(
            Informer(client, resource, on_change=touched) for resource in resources.IP_POOLS
        )
        self.prefixes = PrefixSource(client, self.nodes, objects.ImportLimits(), nodes_changed)
        self.mesh_nodes: Informer[objects.MeshNode] = Informer(
            client,
            resources.MESH_NODES,
            on_change=when_other(nodes_changed, lambda node: node.spec),
            keep=objects.MeshNode.told,
        )
        self.remote_nodes: Informer[objects.RemoteNode] = Informer(
            client, resources.REMOTE_NODES, label_selector=_OURS, on_change=touched
        )
        self.service_informer: Informer[objects.Service] = Informer(
            client, resources.SERVICES, on_change=service_changed, keep=slim_service
        )
        self.slice_informer: Informer[objects.EndpointSlice] = Informer(
            client,
            resources.ENDPOINT_SLICES,
            label_selector=f"{names.SLICE_MANAGED_BY}!={names.SLICE_MANAGER}",
            on_change=self.services.on_slice,
        )
        self.written_informer: Informer[Written] = Informer(
            client,
            _summed(resources.ENDPOINT_SLICES),
            label_selector=f"{names.SLICE_MANAGED_BY}={names.SLICE_MANAGER}",
            on_change=self.written.on_change,
            keep=summary,
            recognise=self.written.recognise,
        )
        self.endpoints: Informer[Written] = Informer(
            client,
            _summed(resources.ENDPOINTS),
            label_selector=_OURS,
            on_change=endpoints_changed,
            keep=summary,
        )

    @property
    def informers(self) -> tuple[Informer[Any], ...]:
        return (
            self.configurations,
            self.calico_configurations,
            self.nodes,
            self.service_cidrs,
            *self.pools,
            self.mesh_nodes,
            self.remote_nodes,
            self.service_informer,
            self.slice_informer,
            self.written_informer,
            self.endpoints,
        )

    def peers(self) -> dict[str, objects.RemoteClusterConfiguration]:
        """Configurations of both groups, by name."""
        return merged(self.configurations.store, self.calico_configurations.store)

    def shadowed(self) -> list[objects.RemoteClusterConfiguration]:
        """Calico's configurations that do not count, since ours has the name."""
        peers = self.peers()
        return [c for name, c in self.calico_configurations.store.items() if peers.get(name, c) is not c]

    async def wait_synced(self) -> None:
        for informer in self.informers:
            await informer.wait_synced()
        await self.prefixes.wait_synced()

    def networks(self) -> LocalNetworks:
        """Prefixes and addresses that no peer may claim."""
        known = self.prefixes.prefixes()
        nodes = [text for node in self.nodes.store.values() for text in (*spec_cidrs(node), *known.of(node))]
        pools = [p.spec.cidr for pools in self.pools for p in pools.store.values() if not p.spec.disabled]
        pods = [c for c in map(parse_network, (*nodes, *pools)) if c is not None]
        services = [
            c
            for s in self.service_cidrs.store.values()
            for c in map(parse_network, s.spec.cidrs or ())
            if c is not None
        ]
        addresses = [
            a
            for n in self.nodes.store.values()
            for a in (parse_address(entry.address) for entry in n.status.addresses or ())
            if a is not None
        ]
        used = {point for service in self.services.services.values() for point in cluster_ips(service)}
        return LocalNetworks(_sorted(pods), _sorted(services), tuple(sorted(addresses, key=str)), used)

    def _are_known(self, change: Change[objects.Service]) -> bool:
        """Whether the addresses of a Service lie in CIDRs that are known to be ours: they come and go all the time."""
        texts = (c for s in self.service_cidrs.store.values() for c in s.spec.cidrs or ())
        cidrs = Ranges(prefix for prefix in map(parse_prefix, texts) if prefix is not None)
        return all(point in cidrs for service in (change.old, change.new) if service for point in cluster_ips(service))


def _converted(resource: Resource[Any]) -> Resource[objects.RemoteClusterConfiguration]:
    """A kind that is decoded as what it is and kept in our terms."""
    return resource


def _summed(resource: Resource[Any]) -> Resource[Written]:
    """A kind that is decoded as what it is and kept as a summary."""
    return resource


def _sorted(networks: list[IPv4Network | IPv6Network]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(sorted(set(networks), key=str))
