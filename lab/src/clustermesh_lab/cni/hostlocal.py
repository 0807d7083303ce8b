"""Address management by host-local, and the port mapping that every plug-in of the lab chains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}


def ipam(pod_cidrs: Sequence[str]) -> dict[str, Any]:
    """Addresses from the node's pod CIDRs, and default routes of their families."""
    routes = [{"dst": "::/0" if ":" in c else "0.0.0.0/0"} for c in pod_cidrs]
    # Leases are kept on a directory that empties at power-on: a node's pods do not outlive it.
    return {
        "type": "host-local",
        "dataDir": "/run/cni-ipam",
        "ranges": [[{"subnet": c}] for c in pod_cidrs],
        "routes": routes,
    }
