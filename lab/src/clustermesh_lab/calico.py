"""A complete real Calico: what its own manifest runs in containers, as supervised processes of the lab.

Custom resource definitions, service accounts and roles are those of the manifest in Calico's module; its DaemonSet and
its Deployment become processes with the same programs and settings, which saves their images (12 s to a Ready cluster
instead of 16). A program shows a client certificate with the name of its service account, so it may do exactly what
the manifest grants.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .build import directory, program

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .pki import Authority
    from .topology import Cluster

COMPONENT = "calico"
MANIFEST = "calico-vxlan.yaml"
STARTED = "/run/lab/calico-started"
ACCOUNTS_OF_NODE = ("calico-node", "calico-cni-plugin")
CONTROLLERS = "calico-kube-controllers"
GROUPS = ("system:serviceaccounts", "system:serviceaccounts:kube-system")
ADDRESS_POLL = "2s"  # Calico's default is 60 s
_RUN_BY_THE_LAB = re.compile(r"^kind: (DaemonSet|Deployment|PodDisruptionBudget)$", re.MULTILINE)


def is_used(clusters: Iterable[Cluster]) -> bool:
    """Whether a lab of these clusters needs Calico's programs."""
    return any(c.cni == COMPONENT for c in clusters)


def objects() -> str:
    """Every object of Calico's manifest but those that run its programs, as YAML documents."""
    documents = (directory(COMPONENT) / MANIFEST).read_text().split("\n---\n")
    return "\n---\n".join(d for d in documents if not _RUN_BY_THE_LAB.search(d))


def credentials(authority: Authority, account: str, url: str, context: str) -> Path:
    """Kubeconfig that acts as a service account of Calico's; certificate and key lie beside it."""
    user = f"system:serviceaccount:kube-system:{account}"
    return authority.kubeconfig(account, url, user, GROUPS, context=context)


def node_components(cluster: Cluster, node: str, argv_of_start: list[str], calico_node: list[str]) -> list[Any]:
    """The parts of the calico-node DaemonSet; all but the first wait until the start-up has succeeded."""
    env = node_environment(cluster, node)
    found: list[dict[str, Any]] = [{"name": "calico-startup", "argv": argv_of_start, "env": env}]
    for name in ("felix", "allocate-tunnel-addrs", "complete-startup"):
        argv = [*calico_node, f"-{name}"]
        found.append({"name": f"calico-{name}", "argv": argv, "env": env, "wait_for": STARTED})
    return found


def node_environment(cluster: Cluster, node: str) -> dict[str, str]:
    """Settings of calico-node, as in the manifest where nothing else is said."""
    with_overlay = cluster.calico["encapsulation"] == "VXLAN"
    env = {
        "DATASTORE_TYPE": "kubernetes",
        "KUBECONFIG": "/etc/kubernetes/calico-node.kubeconfig",
        "NODENAME": node,
        "WAIT_FOR_DATASTORE": "true",
        "CLUSTER_TYPE": "k8s,bgp",
        "IP": "autodetect",
        "AUTODETECT_POLL_INTERVAL": ADDRESS_POLL,
        "CALICO_NETWORKING_BACKEND": "vxlan" if with_overlay else "bird",
        "CALICO_DISABLE_FILE_LOGGING": "true",
        "FELIX_FELIXHOSTNAME": node,
        "FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACCEPT",
        "FELIX_IPV6SUPPORT": "false",
        "FELIX_HEALTHENABLED": "true",
        "FELIX_NFTABLESMODE": "Enabled",
        "FELIX_USAGEREPORTINGENABLED": "false",
        "FELIX_TYPHAK8SSERVICENAME": "none",
        "FELIX_LOGSEVERITYSCREEN": "Info",
        # Without cgo there is no eBPF; its clean-up would end Felix.
        "FELIX_DebugSkipCTLBCleanup": "true",
    }
    if not with_overlay:
        env["FELIX_PROGRAMCLUSTERROUTES"] = "Enabled"  # routes between nodes by Felix: BIRD is no Go program
    if cluster.calico["ipam"] == "podcidr":
        return env | {"NO_DEFAULT_POOLS": "true"}
    return env | {
        "CALICO_IPV4POOL_CIDR": cluster.pods[0],
        "CALICO_IPV4POOL_IPIP": "Never",
        "CALICO_IPV4POOL_VXLAN": "Always" if with_overlay else "Never",
    }


def node_pool(cluster: Cluster, node: str) -> dict[str, Any] | None:
    """A pool from which one node alone takes its blocks, less its CIDR, which is the node's first pod CIDR."""
    if cluster.calico["ipam"] != "podcidr":
        return None
    return {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPPool",
        "metadata": {"name": f"pods-of-{node}"},
        "spec": {
            "blockSize": 26,
            "ipipMode": "Never",
            "vxlanMode": "Always" if cluster.calico["encapsulation"] == "VXLAN" else "Never",
            "natOutgoing": True,
            "nodeSelector": f"kubernetes.io/hostname == '{node}'",
            "allowedUses": ["Workload", "Tunnel"],
        },
    }


def controllers(kubeconfig: Path, control: Path, wait_for: str) -> dict[str, Any]:
    """The Deployment: garbage collection of addresses, node and label sync."""
    env = {
        "DATASTORE_TYPE": "kubernetes",
        "ENABLED_CONTROLLERS": "node,loadbalancer",
        "KUBECONFIG": str(kubeconfig),
    }
    argv = [*program(CONTROLLERS), "-status-file", str(control / "calico-status.json")]
    return {"name": CONTROLLERS, "argv": argv, "env": env, "wait_for": wait_for}
