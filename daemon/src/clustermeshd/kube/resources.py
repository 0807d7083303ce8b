"""The kinds we read and write: where the API serves them, and the struct each decodes to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from clustermeshd.kube import objects
from clustermeshd.kube.errors import Rejected
from clustermeshd.model import names

_NAME: Final = re.compile(r"[A-Za-z0-9]([-.:A-Za-z0-9]{0,251}[A-Za-z0-9])?")

T = TypeVar("T", bound=objects.Object)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """One kind; ``group`` is empty for core/v1. ``optional``: of a CRD or of late, so that a server may lack it."""

    group: str
    version: str
    plural: str
    kind: str
    type: type[T]
    namespaced: bool = True
    optional: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def bare(self) -> Resource[objects.Object]:
        """The same kind, read no further than every kind goes."""
        return Resource(
            self.group, self.version, self.plural, self.kind, objects.Object, self.namespaced, self.optional
        )

    @property
    def home(self) -> str:
        """URL path of its group and version: a discovery document."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of a collection (all namespaces when ``namespace`` is None), an object or a subresource.

        Rejected where a name could lead elsewhere: some are made of what a peer says.
        """
        for part in (namespace, name):
            if part is not None and not _NAME.fullmatch(part):
                fix = "use letters, digits, '-', '.' and ':'"
                raise Rejected("RequestRejected", f"the name {part[:64]!r}", where=self.kind, fix=fix)
        parts = [self.home]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [self.plural, *(part for part in (name, subresource) if part is not None)]
        return "/".join(parts)


NODES: Final = Resource("", "v1", "nodes", "Node", objects.Node, namespaced=False)
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", objects.Namespace, namespaced=False)
PODS: Final = Resource("", "v1", "pods", "Pod", objects.Pod)
SERVICES: Final = Resource("", "v1", "services", "Service", objects.Service)
ENDPOINTS: Final = Resource("", "v1", "endpoints", "Endpoints", objects.Endpoints)
SECRETS: Final = Resource("", "v1", "secrets", "Secret", objects.Secret)
EVENTS: Final = Resource("", "v1", "events", "Event", objects.Object)
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", objects.EndpointSlice)
SERVICE_CIDRS: Final = Resource(
    "networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", objects.ServiceCIDR, namespaced=False, optional=True
)
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease", objects.Lease)
CALICO_GROUPS: Final = (("crd.projectcalico.org", "v1"), ("projectcalico.org", "v3"))
"""Where Calico keeps its objects: the second where it has no v1 group (libcalico-go/lib/backend/k8s/discovery.go)."""
IPAM_BLOCKS: Final = tuple(
    Resource(group, version, "ipamblocks", "IPAMBlock", objects.IPAMBlock, namespaced=False, optional=True)
    for group, version in CALICO_GROUPS
)
IP_POOLS: Final = tuple(
    Resource(group, version, "ippools", "IPPool", objects.IPPool, namespaced=False, optional=True)
    for group, version in CALICO_GROUPS
)
REMOTE_CLUSTER_CONFIGURATIONS: Final = Resource(
    names.GROUP,
    names.VERSION,
    "remoteclusterconfigurations",
    "RemoteClusterConfiguration",
    objects.RemoteClusterConfiguration,
    namespaced=False,
    optional=True,
)
CALICO_REMOTE_CLUSTER_CONFIGURATIONS: Final = Resource(
    "projectcalico.org",
    "v3",
    "remoteclusterconfigurations",
    "RemoteClusterConfiguration",
    objects.CalicoRemoteClusterConfiguration,
    namespaced=False,
    optional=True,
)
REMOTE_NODES: Final = Resource(
    names.GROUP, names.VERSION, "remotenodes", "RemoteNode", objects.RemoteNode, namespaced=False, optional=True
)
MESH_NODES: Final = Resource(
    names.GROUP, names.VERSION, "meshnodes", "MeshNode", objects.MeshNode, namespaced=False, optional=True
)
