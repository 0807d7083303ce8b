"""Every name that other programs can see: API group, labels, annotations, field managers.

One home, because a label that is written in one place and selected by another must never differ by a letter.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "clustermesh.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

# Labels on objects we write
REMOTE_CLUSTER: Final = (
    f"{GROUP}/remote-cluster"  # RemoteNode, RemoteEndpointSet: name of the RemoteClusterConfiguration
)
FEDERATED_SERVICE: Final = f"{GROUP}/federated-service"  # EndpointSlice: name of the federated Service
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "clustermesh"

# Labels and annotations of Kubernetes that we read or must write
SERVICE_NAME: Final = "kubernetes.io/service-name"
SLICE_MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
SLICE_MANAGER: Final = f"federation.{GROUP}"
SKIP_MIRROR: Final = "endpointslice.kubernetes.io/skip-mirror"
HEADLESS: Final = "service.kubernetes.io/headless"
OVER_CAPACITY: Final = "endpoints.kubernetes.io/over-capacity"
LAST_CHANGE_TRIGGER: Final = "endpoints.kubernetes.io/last-change-trigger-time"

# Federated Services: the documented annotation of Calico Enterprise, and ours
# (tigera/docs: calico-enterprise/multicluster/federation/services-controller.mdx)
SERVICE_SELECTOR: Final = "federation.tigera.io/serviceSelector"
SERVICE_SELECTOR_ALIAS: Final = f"{GROUP}/serviceSelector"
REMOTE_CLUSTER_NAME: Final = "federation.tigera.io/remoteClusterName"
AFFINITY: Final = f"{GROUP}/affinity"  # local, remote or none: whose endpoints are preferred while any is ready
STALENESS: Final = f"{GROUP}/staleness"  # keep, not-ready:SECONDS or drop:SECONDS: of endpoints of a lost cluster
STALE: Final = f"{GROUP}/stale"  # EndpointSlice of ours: its cluster is lost, and its endpoints step back

# Where Calico tells a node's VXLAN tunnel address (libcalico-go, resources/node.go)
CALICO_TUNNEL_ADDRESS_V4: Final = "projectcalico.org/IPv4VXLANTunnelAddr"
CALICO_TUNNEL_ADDRESS_V6: Final = "projectcalico.org/IPv6VXLANTunnelAddr"

# Server-side apply field managers: one per writer
CONTROLLER_MANAGER: Final = "clustermesh-controller"
AGENT_MANAGER: Final = "clustermesh-agent"

# Where our own things live in a cluster
NAMESPACE: Final = "clustermesh-system"
CONTROLLER_ACCOUNT: Final = "clustermesh-controller"
AGENT_ACCOUNT: Final = "clustermesh-agent"
REMOTE_ACCESS_ACCOUNT: Final = "clustermesh-remote"  # what other clusters authenticate as
CONTROLLER_LEASE: Final = "clustermesh-controller"
