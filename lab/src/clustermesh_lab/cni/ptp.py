"""A veth pair and a host route for each pod: no bridge, every packet is routed (as Calico does it)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .hostlocal import PORTMAP, ipam

if TYPE_CHECKING:
    from collections.abc import Sequence

LAB_ROUTES = True
LAB_INSTALLS = True


def conflist(pod_cidrs: Sequence[str], mtu: int) -> dict[str, Any] | None:
    """CNI configuration of a node with these pod CIDRs."""
    plugin = {"type": "ptp", "ipMasq": False, "mtu": mtu, "ipam": ipam(pod_cidrs)}
    return {"cniVersion": "1.0.0", "name": "lab-ptp", "plugins": [plugin, PORTMAP]}
