"""What a peer gives, as its API server has it: Calico's blocks, single pods, namespaces, limits."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from clustermesh_lab import ControlPlane
from clustermeshd.controller import prefixes
from clustermeshd.kube import resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import NotFound
from clustermeshd.model import names
from meshes import (
    NS,
    access_secret,
    addresses,
    admin,
    conditions,
    configuration,
    controller,
    delete,
    endpoint_slice,
    eventually,
    exposition,
    put,
    remote_nodes,
    service,
)

BLOCKS = json.loads((Path(__file__).parent / "calico_blocks.json").read_text())


def crd(group: str, version: str, kind: str = "IPAMBlock") -> dict:
    """A kind of Calico's as far as the API server must know it."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def node(name: str, address: str, *cidrs: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def namespace(name: str, **labels: str) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, node_name: str, ip: str, phase: str = "Running", host_network: bool = False) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NS},
        "spec": {
            "nodeName": node_name,
            "hostNetwork": host_network,
            "containers": [{"name": "c", "image": "none"}],
            "tolerations": [{"operator": "Exists"}],
        },
        "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def rules(name: str, **import_: object) -> dict:
    document = configuration(name, name)
    document["spec"]["import"] = import_
    return document


@pytest.fixture
async def west(remote_api: ControlPlane) -> AsyncIterator[Client]:
    """The remote cluster, with nothing of ours in it."""
    async with admin(remote_api) as client:
        await put(client, namespace(NS), namespace("default"))
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NS}}
        await put(client, account)
        made = [node(f"n{i}", f"192.168.2.{i}") for i in (1, 2, 3)]
        await delete(client, *made)
        yield client
        await delete(client, *made)


async def join(east: Client, remote_api: ControlPlane, name: str = "west", **import_: object) -> None:
    await put(east, access_secret(name, remote_api.kubeconfig.read_text()), rules(name, **import_))


async def _nodes_of_calico(west: Client) -> None:
    for one in BLOCKS["nodes"]:
        document = node(one["name"], one["address"], *one["podCIDRs"])
        document["metadata"]["annotations"] = {names.CALICO_TUNNEL_ADDRESS_V4: one["tunnel"]}
        await put(west, document)


def _node_of(routes: dict[str, tuple[str, ...]], address: str) -> str:
    """Where the longest of the routes to an address leads."""
    routed = [(ip_network(cidr), name) for name, cidrs in routes.items() for cidr in cidrs]
    return max((cidr.prefixlen, name) for cidr, name in routed if ip_address(address) in cidr)[1]


@pytest.mark.parametrize(("group", "version"), [("crd.projectcalico.org", "v1"), ("projectcalico.org", "v3")])
async def test_every_pod_of_a_calico_cluster_is_routed_to_its_node(api, remote_api, east, west, group, version):
    blocks = [block | {"apiVersion": f"{group}/{version}"} for block in BLOCKS["blocks"]]
    await put(west, crd(group, version))
    await eventually(lambda: _served(west, group, version))
    try:
        await _nodes_of_calico(west)
        await put(west, *blocks)
        await join(east, remote_api)
        async with controller(api):

            async def routed():
                routes = await remote_nodes(east)
                return len(routes) == 3 and all(
                    _node_of(routes, p["ip"]) == f"west.{p['node']}" for p in BLOCKS["pods"]
                )

            await eventually(routed)
            stored = [await east.get(resources.REMOTE_NODES, f"west.{one['name']}") for one in BLOCKS["nodes"]]
            assert [n.spec.tunnel_addresses for n in stored] == [(one["tunnel"],) for one in BLOCKS["nodes"]]
            assert await _refused(east) == 0
            await delete(west, *blocks)

            async def own_cidrs_again():
                return await remote_nodes(east) == {f"west.{n['name']}": tuple(n["podCIDRs"]) for n in BLOCKS["nodes"]}

            await eventually(own_cidrs_again)
    finally:
        await delete(west, crd(group, version))


async def test_a_peer_whose_calico_is_removed_goes_by_its_nodes_again(api, remote_api, east, west, monkeypatch):
    monkeypatch.setattr(prefixes, "_DISCOVERY_PERIOD_S", 0.2)
    kind = crd("crd.projectcalico.org", "v1")
    await put(west, kind)
    await eventually(lambda: _served(west, "crd.projectcalico.org", "v1"))
    await _nodes_of_calico(west)
    await put(west, *(block | {"apiVersion": "crd.projectcalico.org/v1"} for block in BLOCKS["blocks"]))
    await join(east, remote_api)
    own = {f"west.{n['name']}": tuple(n["podCIDRs"]) for n in BLOCKS["nodes"]}
    async with controller(api):

        async def by_blocks():
            found = await remote_nodes(east)
            return found.keys() == own.keys() and found != own

        async def by_nodes():
            synced = (await conditions(east, "west")).get("Synced")
            return await remote_nodes(east) == own and synced == ("True", "InSync")

        await eventually(by_blocks)
        await delete(west, kind)
        await eventually(by_nodes)


async def test_agents_of_a_calico_cluster_are_told_the_prefixes_of_their_pods(api, remote_api, east, west):
    """The Node object says nothing of blocks, and an agent reads only what concerns its node."""
    blocks = [block | {"apiVersion": "crd.projectcalico.org/v1"} for block in BLOCKS["blocks"]]
    kind = crd("crd.projectcalico.org", "v1")
    await put(east, kind)
    await eventually(lambda: _served(east, "crd.projectcalico.org", "v1"))
    nodes = [node(one["name"], one["address"], *one["podCIDRs"]) for one in BLOCKS["nodes"]]
    await delete(east, *nodes)  # a Node's prefixes cannot be changed
    try:
        await put(east, *nodes, *blocks)
        async with controller(api):

            async def told():
                found, _ = await east.list(resources.MESH_NODES)
                routes = {n.metadata.name: n.spec.pod_cidrs for n in found if n.spec.pod_cidrs}
                return len(routes) == len(nodes) and all(
                    _node_of(routes, p["ip"]) == p["node"] for p in BLOCKS["pods"]
                )

            await eventually(told)
            await delete(east, *blocks)

            async def told_nothing():
                found, _ = await east.list(resources.MESH_NODES)
                return all(n.spec.pod_cidrs == () for n in found)

            await eventually(told_nothing)
    finally:
        await delete(east, *nodes, kind)


async def test_a_pool_of_our_own_calico_is_no_peers_until_it_is_disabled(api, remote_api, east, west):
    def pool(*, disabled: bool) -> dict:
        return {
            "apiVersion": "crd.projectcalico.org/v1",
            "kind": "IPPool",
            "metadata": {"name": "own"},
            "spec": {"cidr": "10.2.0.0/16", "disabled": disabled},
        }

    kind = crd("crd.projectcalico.org", "v1", "IPPool")
    await put(east, kind)
    await eventually(lambda: _served(east, "crd.projectcalico.org", "v1", b"ippools"))
    try:
        await put(east, pool(disabled=False))
        await put(west, node("n1", "192.168.2.1", "10.2.0.0/24"))
        await join(east, remote_api)
        async with controller(api):

            async def refused():
                return await _refused(east) == 1 and await remote_nodes(east) == {"west.n1": ()}

            await eventually(refused)
            await put(east, pool(disabled=True))

            async def admitted():
                return await remote_nodes(east) == {"west.n1": ("10.2.0.0/24",)}

            await eventually(admitted)
    finally:
        await delete(east, kind)


async def _served(client: Client, group: str, version: str, plural: bytes = b"ipamblocks") -> bool:
    try:
        return plural in await client.request("GET", f"/apis/{group}/{version}")
    except NotFound:
        return False


async def _refused(client: Client) -> int:
    found = await client.get(resources.REMOTE_CLUSTER_CONFIGURATIONS, "west")
    return found.status.counts.refused if found.status.counts else 0


async def test_a_node_without_prefixes_is_reached_pod_by_pod(api, remote_api, east, west):
    await put(west, node("n1", "192.168.2.1"), node("n2", "192.168.2.2", "10.2.2.0/24"))
    running = pod("a", "n1", "10.6.0.7")
    others = [pod("host", "n1", "192.168.2.1", host_network=True), pod("far", "n2", "10.2.2.9")]
    await put(west, running, *others, pod("done", "n1", "10.6.0.8", phase="Succeeded"))
    await join(east, remote_api)
    async with controller(api) as (mesh, _):

        def routes(*of_n1: str):
            async def check():
                return await remote_nodes(east) == {"west.n1": of_n1, "west.n2": ("10.2.2.0/24",)}

            return check

        await eventually(routes("10.6.0.7/32"))
        assert len(mesh.peers["west"].connection.prefixes.pods.store) == 3  # the finished one is not even read
        await put(west, pod("b", "n1", "10.6.0.9"))
        await eventually(routes("10.6.0.7/32", "10.6.0.9/32"))
        await delete(west, running)
        await eventually(routes("10.6.0.9/32"))
    await delete(west, *others, pod("b", "n1", ""), pod("done", "n1", ""))


async def test_of_many_foreign_endpoints_a_few_are_named_and_all_are_counted(api, remote_api, east, west):
    await put(east, namespace(NS), service("data", selector='app == "db"'))
    await put(west, node("n1", "192.168.2.1", "10.2.0.0/24"), service("db", "db"))
    await put(west, endpoint_slice("db", "10.2.0.5", *(f"10.99.0.{i}" for i in range(1, 61))))
    await join(east, remote_api)
    async with controller(api) as (_, metrics):

        async def counted():
            told = (await east.get(resources.REMOTE_CLUSTER_CONFIGURATIONS, "west")).status
            return told.counts is not None and told.counts.refused == 60 and len(told.refused or ()) == 20

        await eventually(counted)
        assert 'refused_objects{reason="ForeignAddress",remote_cluster_name="west"} 60.0' in exposition(metrics)
        assert await addresses(east, "data") == ["10.2.0.5"]


async def test_the_end_of_the_credential_in_the_secret_is_told_and_forgotten_with_it(api, remote_api, east, west):
    def of_token(token: str) -> dict:
        config = json.loads(remote_api.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        return access_secret("west", json.dumps(config))

    def told(metrics, check):
        metric = 'clustermesh_peer_credential_expiry_seconds{remote_cluster_name="west"}'

        async def holds() -> bool:
            end = (await east.get(resources.REMOTE_CLUSTER_CONFIGURATIONS, "west")).status.credential_expiry_time
            lines = [line for line in exposition(metrics).splitlines() if line.startswith(metric)]
            return check(end, float(lines[0].split()[-1]) if lines else None)

        return holds

    await join(east, remote_api)  # by a certificate
    claims = base64.urlsafe_b64encode(b'{"exp":1893456000}').decode().rstrip("=")  # the first second of 2030
    async with controller(api) as (_, metrics):
        await eventually(told(metrics, lambda end, left: end is not None and left is not None and left > 0))
        await put(east, of_token(f"x.{claims}.x"))
        left_s = 1893456000 - time.time()
        await eventually(
            told(metrics, lambda end, left: end == "2030-01-01T00:00:00Z" and left and abs(left - left_s) < 60), 30
        )
        await put(east, of_token("opaque"))
        await eventually(told(metrics, lambda end, left: end is None and left is None), 30)


async def test_a_peer_that_does_not_read_us_is_one_way(api, meshed_remote_api, east):
    """Its configurations are read as they come and go; what is programmed is not the other side's to take away."""
    await join(east, meshed_remote_api)
    own_id = (await east.get(resources.NAMESPACES, "kube-system")).metadata.uid

    def routed(status: str, reason: str):
        async def check() -> bool:
            return (await conditions(east, "west")).get("Routed") == (status, reason)

        return check

    theirs = configuration("east", "east")
    async with controller(api), admin(meshed_remote_api) as west:
        await put(west, node("n1", "192.168.2.1", "10.2.0.0/24"))
        await eventually(routed("False", "OneWay"))
        await put(west, theirs)
        await eventually(routed("True", "OverlayEnabled"))  # it has not reached its cluster: nothing is claimed
        await put(west, theirs | {"status": {"clusterID": "another"}})
        await eventually(routed("False", "OneWay"))
        await put(west, theirs | {"status": {"clusterID": own_id}})
        await eventually(routed("True", "OverlayEnabled"))
        await delete(west, theirs)
        await eventually(routed("False", "OneWay"))
        assert await remote_nodes(east) == {"west.n1": ("10.2.0.0/24",)}
        await delete(west, node("n1", "192.168.2.1"))


async def test_pods_are_not_read_where_every_node_has_prefixes(api, remote_api, east, west):
    await put(west, node("n1", "192.168.2.1", "10.2.0.0/24"))
    await join(east, remote_api)
    async with controller(api) as (mesh, _):

        async def joined():
            return await remote_nodes(east) == {"west.n1": ("10.2.0.0/24",)}

        await eventually(joined)
        assert mesh.peers["west"].connection.prefixes.pods is None


async def test_namespaces_and_labels_count_as_the_rules_say(api, remote_api, east, west):
    await put(east, namespace(NS))
    await put(west, node("n1", "192.168.2.1", "10.2.0.0/24"), namespace(NS, mesh="yes"))
    backing = service("reviews-23", "reviews")
    backing["metadata"]["labels"]["secret"] = "x"
    await put(west, backing, endpoint_slice("reviews-23", "10.2.0.5"))
    await put(east, service("reviews", selector='app == "reviews"'), service("hidden", selector="has(secret)"))
    await join(east, remote_api)

    async with controller(api):

        def federated(name: str, *expected: str):
            async def check():
                return await addresses(east, name) == list(expected)

            return check

        async def told(reason: str):
            return (await conditions(east, "west")).get("Degraded", ("", ""))[1] == reason

        await eventually(federated("reviews", "10.2.0.5"))
        await eventually(federated("hidden", "10.2.0.5"))
        await put(east, rules("west", labelKeys=["app", "version*"]))
        await eventually(federated("hidden"))
        assert await addresses(east, "reviews") == ["10.2.0.5"]
        await put(east, rules("west", namespaces=["other"]))
        await eventually(federated("reviews"))
        await put(east, rules("west", namespaces=[NS], namespaceSelector="mesh == 'yes'"))
        await eventually(federated("reviews", "10.2.0.5"))
        await put(west, namespace(NS, mesh="no"))
        await eventually(federated("reviews"))
        await put(west, namespace(NS, mesh="yes"))
        await eventually(federated("reviews", "10.2.0.5"))
        await put(east, rules("west", namespaceSelector="mesh = yes"))
        await eventually(federated("reviews"))
        await eventually(lambda: told("InvalidNamespaceSelector"))
        await put(east, rules("west"))
        await eventually(federated("reviews", "10.2.0.5"))
        await eventually(lambda: told("NothingRefused"))
    await delete(west, backing, endpoint_slice("reviews-23"))


async def test_endpoints_may_lie_in_admitted_service_prefixes_that_are_nobody_elses(api, remote_api, east, west):
    await put(east, namespace(NS))
    await put(west, node("n1", "192.168.2.1", "10.2.0.0/24"))
    await put(west, service("db", "db"), endpoint_slice("db", "10.50.0.5", "10.51.0.5"))
    await put(east, service("data", selector='app == "db"'))
    await join(east, remote_api, serviceCIDRs=["10.50.0.0/16", "10.96.0.0/12"])
    async with controller(api):

        async def federated():
            return await addresses(east, "data") == ["10.50.0.5"]

        await eventually(federated)

        async def told():
            found = await east.get(resources.REMOTE_CLUSTER_CONFIGURATIONS, "west")
            refused = {(r.kind, r.reason) for r in found.status.refused or ()}
            return refused >= {("RemoteClusterConfiguration", "OverlapsLocal"), ("Endpoint", "ForeignAddress")}

        await eventually(told)
    await delete(west, service("db"), endpoint_slice("db"))


async def test_limits_leave_objects_out_and_say_so_and_a_higher_one_takes_them_in(api, remote_api, east, west):
    await put(west, node("n1", "192.168.2.1", "10.2.0.0/24"), node("n2", "192.168.2.2", "10.2.1.0/24"))
    await join(east, remote_api, limits={"nodes": 1})
    async with controller(api):

        async def limited():
            found = await east.get(resources.REMOTE_CLUSTER_CONFIGURATIONS, "west")
            refused = [(r.kind, r.reason) for r in found.status.refused or ()]
            return refused == [("Node", "LimitReached")] and len(await remote_nodes(east)) == 1

        await eventually(limited)
        await put(east, rules("west", limits={"nodes": 2}))

        async def complete():
            return len(await remote_nodes(east)) == 2

        await eventually(complete)
