"""What tests of the controller share: objects as documents, a controller at work, and what it made of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess

import yaml
from clustermesh_lab import ControlPlane
from clustermesh_lab.build import program
from clustermeshd.controller.mesh import Mesh
from clustermeshd.controller.metrics import Metrics
from clustermeshd.kube import resources
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import NotFound
from clustermeshd.model import names
from clustermeshd.runtime.notify import Notifier
from prometheus_client.exposition import generate_latest

NS = "shop"


def kubectl(api: ControlPlane, *argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [*program("kubectl"), f"--kubeconfig={api.kubeconfig}", *argv], input=stdin, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def apply(api: ControlPlane, *documents: dict) -> None:
    kubectl(api, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(documents))


def node(name: str, cidr: str, address: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def add_node(api: ControlPlane, name: str, cidr: str, address: str) -> None:
    document = node(name, cidr, address)
    apply(api, document)
    kubectl(api, "apply", "--server-side", "--subresource=status", "-f", "-", stdin=json.dumps(document))


def service(name: str, app: str | None = None, selector: str | None = None) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": NS,
            "labels": {"app": app} if app else {},
            "annotations": {names.SERVICE_SELECTOR: selector} if selector else {},
        },
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    }


def endpoint_slice(name: str, *ips: str) -> dict:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": NS, "labels": {names.SERVICE_NAME: name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}} for ip in ips],
    }


def access_secret(name: str, kubeconfig: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "data": {
            key: base64.b64encode(value.encode()).decode()
            for key, value in {"datastoreType": "kubernetes", "kubeconfig": kubeconfig}.items()
        },
    }


def configuration(name: str, secret: str) -> dict:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "RemoteClusterConfiguration",
        "metadata": {"name": name},
        "spec": {
            "clusterAccessSecret": {"name": secret, "namespace": "default"},
            "syncOptions": {"overlayRoutingMode": "Enabled"},
        },
    }


def join(east: ControlPlane, west: ControlPlane, name: str) -> None:
    apply(east, access_secret(name, west.kubeconfig.read_text()), configuration(name, name))


async def eventually(check, timeout_s=15.0):
    async with asyncio.timeout(timeout_s):
        while not await check():  # noqa: ASYNC110  # what is waited for happens in another process
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def controller(api: ControlPlane):
    """A leader at work."""
    metrics = Metrics()
    async with Client(await from_file(api.kubeconfig), user_agent="controller") as client:
        mesh = Mesh(client, user_agent="test", metrics=metrics, notifier=Notifier({}), fence=lambda: None)
        task = asyncio.create_task(mesh.run())
        try:
            yield mesh, metrics
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def addresses(client: Client, name: str) -> list[str]:
    try:
        found = await client.get(resources.ENDPOINTS, name, NS)
    except NotFound:
        return []
    return sorted(a.ip for s in found.subsets or () for a in s.addresses or ())


async def conditions(client: Client, name: str) -> dict[str, tuple[str, str]]:
    found = await client.get(resources.REMOTE_CLUSTER_CONFIGURATIONS, name)
    return {c.type: (c.status, c.reason) for c in found.status.conditions or ()}


async def remote_nodes(client: Client) -> dict[str, tuple[str, ...]]:
    found, _ = await client.list(resources.REMOTE_NODES)
    return {n.metadata.name: n.spec.pod_cidrs for n in found}


_PLURALS = {
    "Namespace": "namespaces",
    "Node": "nodes",
    "Pod": "pods",
    "Secret": "secrets",
    "ServiceAccount": "serviceaccounts",
    "Service": "services",
    "EndpointSlice": "endpointslices",
    "IPAMBlock": "ipamblocks",
    "IPPool": "ippools",
    "CustomResourceDefinition": "customresourcedefinitions",
    "RemoteClusterConfiguration": "remoteclusterconfigurations",
}


def path_of(document: dict) -> str:
    meta, version = document["metadata"], document["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    space = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    return f"{root}{space}/{_PLURALS[document['kind']]}/{meta['name']}"


async def put(client: Client, *documents: dict) -> None:
    """Applies documents, their status too where they have one: as kubectl does, a hundred times as fast."""
    for document in documents:
        path = path_of(document)
        for target in (path, *([f"{path}/status"] if "status" in document else [])):
            await client.request(
                "PATCH",
                target,
                query={"fieldManager": "test", "force": "true"},
                body=json.dumps(document).encode(),
                content_type="application/apply-patch+yaml",
            )


async def delete(client: Client, *documents: dict) -> None:
    for document in documents:
        with contextlib.suppress(NotFound):
            await client.request("DELETE", path_of(document), query={"gracePeriodSeconds": "0"})


@contextlib.asynccontextmanager
async def admin(api: ControlPlane):
    """A client that may do everything."""
    async with Client(await from_file(api.kubeconfig), user_agent="admin") as client:
        yield client


def exposition(metrics: Metrics) -> str:
    """The metrics as they are scraped."""
    return generate_latest(metrics.registry).decode()
