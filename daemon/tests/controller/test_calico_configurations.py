"""RemoteClusterConfigurations of projectcalico.org/v3, as Calico Enterprise's pages write them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from clustermeshd.kube import objects
from clustermeshd.plan.configurations import from_calico
from meshes import (
    access_secret,
    admin,
    conditions,
    configuration,
    controller,
    delete,
    eventually,
    exposition,
    kubectl,
    put,
    remote_nodes,
)

CRD = Path(__file__).parents[3] / "roles/mesh_crds/files/calico/remoteclusterconfigurations.yaml"
# tigera/docs: calico-enterprise/multicluster/federation/kubeconfig.mdx, with a namespace for <secret-namespace>
DOCUMENTED = """
apiVersion: projectcalico.org/v3
kind: RemoteClusterConfiguration
metadata:
  name: cluster-b
spec:
  clusterAccessSecret:
    name: remote-cluster-secret-name
    namespace: default
    kind: Secret
  syncOptions:
    overlayRoutingMode: Enabled
"""
KIND = "remoteclusterconfigurations.projectcalico.org"


@pytest.fixture
async def served(api, remote_api) -> AsyncIterator[None]:
    """Calico's kind is served here; the peer has a node."""
    kubectl(api, "apply", "--server-side", "-f", str(CRD))
    kubectl(api, "wait", "--for=condition=Established", f"crd/{KIND}", "--timeout=30s")
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.2.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.2.1"}]},
    }
    async with admin(remote_api) as west:
        await put(west, node)
        yield
        await delete(west, node)
    kubectl(api, "delete", "crd", KIND)


def reasons(api, name: str) -> dict[str, str]:
    events = json.loads(kubectl(api, "get", "events", "-n", "default", "-o", "json"))["items"]
    return {
        e["reason"]: e["message"]
        for e in events
        if (e["involvedObject"]["name"], e["involvedObject"].get("apiVersion")) == (name, "projectcalico.org/v3")
    }


async def test_the_documented_manifest_verbatim_leads_to_a_peer_in_sync(api, remote_api, east, served, caplog):
    caplog.set_level("INFO")
    async with controller(api) as (_, metrics):
        await put(east, access_secret("remote-cluster-secret-name", remote_api.kubeconfig.read_text()))
        kubectl(api, "create", "-f", "-", stdin=DOCUMENTED)

        async def mirrored():
            return await remote_nodes(east) == {"cluster-b.n1": ("10.2.0.0/24",)}

        await eventually(mirrored)
        (node,) = json.loads(kubectl(api, "get", "remotenodes.clustermesh.io", "-o", "json"))["items"]
        owner = json.loads(kubectl(api, "get", KIND, "cluster-b", "-o", "json"))["metadata"]["uid"]
        (reference,) = node["metadata"]["ownerReferences"]
        assert (reference["apiVersion"], reference["uid"]) == ("projectcalico.org/v3", owner)
        assert node["spec"]["overlayRoutingMode"] == "Enabled"

        async def in_sync():
            return 'connection_status{remote_cluster_name="cluster-b"} 2.0' in exposition(metrics)

        await eventually(in_sync)
        assert "Sending in-sync update for RemoteClusterConfiguration(cluster-b)" in caplog.text
        kubectl(api, "delete", KIND, "cluster-b")

        async def gone():
            return await remote_nodes(east) == {}

        await eventually(gone, 5)


async def test_other_ways_to_connect_are_refused_by_name(api, east, served):
    document = DOCUMENTED + "  datastoreType: etcdv3\n  etcdEndpoints: https://127.0.0.1:2379\n"
    async with controller(api) as (_, metrics):
        kubectl(api, "create", "-f", "-", stdin=document.replace("cluster-b", "by-etcd"))

        async def told():
            message = reasons(api, "by-etcd").get("ConnectionFieldRefused", "")
            return "spec.datastoreType, spec.etcdEndpoints cannot be used" in message

        await eventually(told)
        assert 'connection_status{remote_cluster_name="by-etcd"} 5.0' in exposition(metrics)
        fixed = json.loads(kubectl(api, "get", KIND, "by-etcd", "-o", "json"))
        del fixed["spec"]["datastoreType"], fixed["spec"]["etcdEndpoints"]
        kubectl(api, "replace", "-f", "-", stdin=json.dumps(fixed))

        async def heard():
            return "SecretMissing" in reasons(api, "by-etcd") or await remote_nodes(east) != {}

        await eventually(heard)


async def test_a_mistyped_one_under_a_looser_definition_is_left_out_alone(api, remote_api, east, served):
    definition = yaml.safe_load(CRD.read_text())
    for version in definition["spec"]["versions"]:
        version["schema"] = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    kubectl(api, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(definition))
    mistyped = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "RemoteClusterConfiguration",
        "metadata": {"name": "mistyped"},
        "spec": {"clusterAccessSecret": {"name": 5}},
    }

    async def taken():
        with contextlib.suppress(AssertionError):  # the stricter schema holds for a moment
            kubectl(api, "apply", "-f", "-", stdin=yaml.safe_dump(mistyped))
            return True
        return False

    await eventually(taken)
    await put(east, access_secret("remote-cluster-secret-name", remote_api.kubeconfig.read_text()))
    kubectl(api, "create", "-f", "-", stdin=DOCUMENTED)
    async with controller(api) as (mesh, _):

        async def mirrored():
            return await remote_nodes(east) == {"cluster-b.n1": ("10.2.0.0/24",)}

        await eventually(mirrored)
        assert set(mesh.peers) == {"cluster-b"}


async def test_of_two_configurations_of_one_name_ours_counts_and_the_other_is_told(api, remote_api, east, served):
    await put(east, access_secret("west", remote_api.kubeconfig.read_text()), configuration("west", "west"))
    theirs = DOCUMENTED.replace("cluster-b", "west").replace("remote-cluster-secret-name", "elsewhere")
    kubectl(api, "create", "-f", "-", stdin=theirs)
    async with controller(api):

        async def told():
            synced = (await conditions(east, "west")).get("Synced") == ("True", "InSync")
            return synced and "NameTaken" in reasons(api, "west")

        await eventually(told)


@pytest.mark.parametrize(
    ("spec", "refused"),
    [
        ({"datastoreType": "kubernetes", "etcdEndpoints": ""}, ()),
        ({"datastoreType": "etcdv3"}, ("datastoreType",)),
        ({"kubeconfig": "/etc/kubeconfig", "k8sAPIToken": "x"}, ("k8sAPIToken", "kubeconfig")),
        ({"kubeconfigInline": "apiVersion: v1"}, ("kubeconfigInline",)),
        ({"k8sInsecureSkipTLSVerify": True}, ("k8sInsecureSkipTLSVerify",)),
    ],
)
def test_every_connection_field_but_the_secret_is_named(spec, refused):
    assert from_calico(objects.CalicoRemoteClusterConfiguration(spec=spec)).refused_fields == refused
