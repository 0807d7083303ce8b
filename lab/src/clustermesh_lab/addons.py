"""Objects every cluster of the lab starts with: the cluster DNS, and what the lab's own pod network may read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .arguments import CLUSTER_DOMAIN
from .errors import LabError
from .images import coredns_image
from .kubeapi import UNREACHABLE, Api, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .topology import Cluster

SYSTEM = "kube-system"
RBAC = "rbac.authorization.k8s.io"
TRANSIENT = (403, 404, 409, 429, 500, 503)  # a server that has just become ready still fills in its own roles
RETRY_FOR_S = 20
DNS_LABELS = {"k8s-app": "kube-dns"}
COREFILE = """.:53 {{
    errors
    health {{
        lameduck 2s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    cache 5
    loop
    reload 5s
}}
"""

Item = tuple[str, dict[str, Any]]


def apply(api: Api, cluster: Cluster) -> None:
    """Create or update all of them."""
    items = [*_podnet_access(), *(_dns(cluster) if cluster.dns else ())]
    deadline = time.monotonic() + RETRY_FOR_S
    for path, obj in items:
        while True:
            try:
                api.apply(path, obj)
                break
            except (ApiError, *UNREACHABLE) as error:
                refused = isinstance(error, ApiError) and error.status not in TRANSIENT
                if refused or time.monotonic() > deadline:
                    raise LabError(f"{obj['kind']} {obj['metadata']['name']}: {error}") from error
                time.sleep(0.2)


def apply_manifest(kubectl: Callable[..., str], text: str) -> None:
    """Server-side apply of a manifest's objects."""
    deadline = time.monotonic() + RETRY_FOR_S
    while True:
        try:
            kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        except LabError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _rbac(kind: str) -> str:
    return f"/apis/{RBAC}/v1/{kind}"


def _binding(name: str, role: str, subject: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }


def _role(name: str, rules: list[dict[str, list[str]]]) -> dict[str, Any]:
    return {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}


def _podnet_access() -> Iterable[Item]:
    name = "clustermesh-lab:podnet"
    read = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}
    yield _rbac("clusterroles"), _role(name, [read])
    yield _rbac("clusterrolebindings"), _binding(name, name, {"kind": "User", "name": name, "apiGroup": RBAC})


def _dns(cluster: Cluster) -> Iterable[Item]:
    """CoreDNS as kubeadm installs it, but for a forwarder: a lab has no outside to ask."""
    core = f"/api/v1/namespaces/{SYSTEM}"
    read = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": ["multicluster.x-k8s.io"], "resources": ["serviceimports"], "verbs": read},
    ]
    account = {"kind": "ServiceAccount", "name": "coredns", "namespace": SYSTEM}
    yield (
        f"{core}/serviceaccounts",
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "coredns", "namespace": SYSTEM}},
    )
    yield _rbac("clusterroles"), _role("system:coredns", rules)
    yield _rbac("clusterrolebindings"), _binding("system:coredns", "system:coredns", account)
    yield (
        f"{core}/configmaps",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "coredns", "namespace": SYSTEM},
            "data": {"Corefile": COREFILE.format(domain=CLUSTER_DOMAIN)},
        },
    )
    yield f"{core}/services", _dns_service(cluster)
    yield f"/apis/apps/v1/namespaces/{SYSTEM}/deployments", _dns_deployment()


def _dns_service(cluster: Cluster) -> dict[str, Any]:
    addresses = list(cluster.service_address(10))
    ports: list[dict[str, Any]] = [
        {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
        {"name": "metrics", "port": 9153, "targetPort": 9153, "protocol": "TCP"},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": SYSTEM, "labels": DNS_LABELS},
        "spec": {
            "selector": DNS_LABELS,
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilyPolicy": "RequireDualStack" if len(addresses) > 1 else "SingleStack",
            "ports": ports,
        },
    }


def _dns_deployment() -> dict[str, Any]:
    def probe(path: str, port: int) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": port}, "periodSeconds": 2, "timeoutSeconds": 5}

    container = {
        "name": "coredns",
        "image": coredns_image(),
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "livenessProbe": probe("/health", 8080) | {"initialDelaySeconds": 30, "failureThreshold": 5},
        "readinessProbe": probe("/ready", 8181) | {"periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "170Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 5,
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": SYSTEM, "labels": DNS_LABELS},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": DNS_LABELS},
            "template": {"metadata": {"labels": DNS_LABELS}, "spec": pod},
        },
    }
