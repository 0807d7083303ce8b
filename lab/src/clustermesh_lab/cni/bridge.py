"""A Linux bridge in each node that its pods share (as flannel, kubenet and docker do it)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .hostlocal import PORTMAP, ipam

if TYPE_CHECKING:
    from collections.abc import Sequence

LAB_ROUTES = True
LAB_INSTALLS = True


def conflist(pod_cidrs: Sequence[str], mtu: int) -> dict[str, Any] | None:
    """CNI configuration of a node with these pod CIDRs."""
    plugin = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "mtu": mtu,
        "ipam": ipam(pod_cidrs),
    }
    return {"cniVersion": "1.0.0", "name": "lab-bridge", "plugins": [plugin, PORTMAP]}
