# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What of the mesh is in a cluster: where to look, and which of it belongs to a peer. Pure functions."""

from __future__ import annotations

from ansible_collections.clustermesh.core.plugins.module_utils._access import RBAC
from ansible_collections.clustermesh.core.plugins.module_utils._objects import GROUP, LABEL, OWNER, name_of
from ansible_collections.clustermesh.core.plugins.module_utils._peering import PREFIX
from ansible_collections.clustermesh.core.plugins.module_utils._pools import PEER

# what controllers and agents make of peers
MIRRORED = {
    "RemoteNode": f"/apis/{GROUP}/remotenodes",
    "RemoteEndpointSet": f"/apis/{GROUP}/remoteendpointsets",
    "MeshNode": f"/apis/{GROUP}/meshnodes",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/endpointslices",
    "NetworkSet": "/apis/crd.projectcalico.org/v1/networksets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
}
ALL = {
    "RemoteClusterConfiguration": f"/apis/{GROUP}/remoteclusterconfigurations",
    **MIRRORED,
    "Endpoints": "/api/v1/endpoints",
    "IPPool": "/apis/crd.projectcalico.org/v1/ippools",
    "Secret": "/api/v1/secrets",
    "ServiceAccount": "/api/v1/serviceaccounts",
    "Role": f"/apis/{RBAC}/v1/roles",
    "RoleBinding": f"/apis/{RBAC}/v1/rolebindings",
    "ClusterRole": f"/apis/{RBAC}/v1/clusterroles",
    "ClusterRoleBinding": f"/apis/{RBAC}/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}
SERVING = ("Endpoints", "EndpointSlice")


def selector(kind):
    """The label that finds ours among others; every object of our own kinds is ours."""
    return None if kind in ("RemoteClusterConfiguration", "RemoteNode", "MeshNode") else f"{LABEL}={OWNER}"


def left(items, peers=(), mirrored_only=False):
    """What is left of the whole mesh, or of the given peers; and what of ours serves local clients and stays."""
    found, serving = [], []
    for item in items:
        peer = peer_of(item)
        if item["kind"] == "MeshNode" and (peers or mirrored_only):
            routed = {p["name"] for p in (item.get("status") or {}).get("peers") or ()}
            gone = sorted(routed & set(peers) if peers else routed)
            found += [f"node {item['metadata']['name']} routes to {name}" for name in gone]
        elif item["kind"] in SERVING and not peer:
            serving.append(name_of(item))
        elif peer in peers if peers else (peer or not mirrored_only):
            found.append(name_of(item))
    return {"left": found, "serving": [] if peers else serving}


def peer_of(item):
    """The peer to which alone an object belongs, empty for those of the cluster itself."""
    name = item["metadata"]["name"]
    if item["kind"] == "RemoteClusterConfiguration":
        return name
    if item["kind"] == "Secret" and name.startswith(PREFIX):
        return name.removeprefix(PREFIX)
    return (item["metadata"].get("labels") or {}).get(PEER, "")
