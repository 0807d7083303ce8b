"""Calico's own CNI and IPAM plug-in; what else makes it a complete Calico is in ..calico and ..inside.calico."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .hostlocal import PORTMAP

if TYPE_CHECKING:
    from collections.abc import Sequence

LAB_ROUTES = False
LAB_INSTALLS = True


def conflist(pod_cidrs: Sequence[str], mtu: int) -> dict[str, Any] | None:
    """As Calico's manifest installs it: the MTU is what Felix found out, the node's name what start-up recorded."""
    plugin = {
        "type": "calico",
        "log_level": "info",
        "log_file_path": "/var/log/calico/cni/cni.log",
        "datastore_type": "kubernetes",
        "mtu": 0,
        "ipam": {"type": "calico-ipam"},
        "policy": {"type": "k8s"},
        "kubernetes": {"kubeconfig": "/etc/kubernetes/calico-cni-plugin.kubeconfig"},
    }
    return {"cniVersion": "0.3.1", "name": "k8s-pod-network", "plugins": [plugin, PORTMAP]}
