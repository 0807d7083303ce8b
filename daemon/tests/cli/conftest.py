"""East sees west: real API servers, the real controller, access by a credential that may do what a peer's may."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clustermesh_lab import ControlPlane
from clustermeshd.model import names

sys.path.insert(0, str(Path(__file__).parent))

from cli_world import (
    READER,
    access_secret,
    apply,
    clustermesh,
    configuration,
    controller,
    endpoint_slice,
    eventually,
    kubectl,
    mesh_node,
    node,
    pod,
    service,
    thing,
)


@pytest.fixture(scope="session")
def remote_api(meshed_remote_api: ControlPlane) -> ControlPlane:
    return meshed_remote_api


@pytest.fixture(scope="module")
def peer_kubeconfig(remote_api: ControlPlane) -> str:
    """What the access Secret of west holds."""
    binding = thing("ClusterRoleBinding", "peer", None, "rbac.authorization.k8s.io/v1")
    subject = {"kind": "User", "name": "peer", "apiGroup": "rbac.authorization.k8s.io"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "peer"}
    apply(remote_api, READER, {**binding, "roleRef": role, "subjects": [subject]})
    return remote_api.client("peer").read_text()


def _clear(api: ControlPlane, kinds: str) -> None:
    kubectl(api, "delete", kinds, "--all", "--ignore-not-found")


@pytest.fixture(scope="module")
def east(
    api: ControlPlane, remote_api: ControlPlane, peer_kubeconfig: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """The cluster whose people ask; everything in it is well."""
    ours = "remoteclusterconfigurations.clustermesh.io,remotenodes.clustermesh.io,meshnodes.clustermesh.io,nodes"
    _clear(api, ours)
    _clear(remote_api, "nodes")
    store = thing("Namespace", "store", metadata={"labels": {"team": "retail"}})
    account = thing("ServiceAccount", "till", "store", metadata={"labels": {"trusted": "yes"}})
    apply(api, store, thing("Namespace", names.NAMESPACE), node("e1", "10.1.0.0/24", "192.168.1.1"))
    apply(
        api,
        account,
        thing("ServiceAccount", "default", "store"),
        pod("store", "cart", "e1", "10.1.0.5", serviceAccountName="till", labels={"pcns.team": "forged"}),
        pod("store", "host", "e1", "192.168.1.1", hostNetwork=True),
        pod("store", "waiting", "e1", ""),
        service("store", "cart-1", "cart"),
        endpoint_slice("store", "cart-1", "10.1.0.5"),
        service("store", "cart", selector="app == 'cart'"),
        mesh_node("e1"),
    )
    apply(remote_api, store, node("w1", "10.2.0.0/24", "192.168.2.1"))
    apply(
        remote_api,
        thing("ServiceAccount", "default", "store"),
        pod("store", "cart", "w1", "10.2.0.5"),
        service("store", "cart-23", "cart"),
        endpoint_slice("store", "cart-23", "10.2.0.5", "10.2.0.6", ready=(True, False)),
    )
    apply(api, access_secret("west", peer_kubeconfig), configuration("west", "west"))
    with controller(api, tmp_path_factory.mktemp("cli") / "controller.log"):
        eventually(lambda: clustermesh(api.kubeconfig, "status").status == 0)
        eventually(lambda: "west:1/2" in clustermesh(api.kubeconfig, "services", "-A").out)
        yield api
    _clear(api, ours)
    _clear(remote_api, "nodes")
    for cluster in (api, remote_api):
        kubectl(cluster, "delete", "pods,services,endpointslices", "--all", "-n", "store", "--force", "--wait=false")


@pytest.fixture
def dead_kubeconfig(peer_kubeconfig: str) -> str:
    """Of a server that is not there: 192.0.2.0/24 is for documentation, and nothing answers from it (RFC 5737)."""
    document = yaml.safe_load(peer_kubeconfig)
    document["clusters"][0]["cluster"]["server"] = "https://192.0.2.1:6443"
    return yaml.safe_dump(document)
