"""How pods of a node get their network: one module for each plug-in.

A plug-in says three things, all as values: the CNI configuration of a node once its pod CIDRs are known, whether the
lab routes pod CIDRs between the nodes itself (it does for plug-ins that have no routing of their own), and whether the
lab installs it at all. Programs
inside a node import this package, so it needs the standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from . import bridge, calico, none, ptp

if TYPE_CHECKING:
    from collections.abc import Sequence


class Plugin(Protocol):
    """What a module of this package offers."""

    LAB_ROUTES: bool
    """The lab masquerades what leaves the cluster and routes pod CIDRs between nodes."""
    LAB_INSTALLS: bool
    """Nodes become Ready by what the lab does."""

    def conflist(self, pod_cidrs: Sequence[str], mtu: int) -> dict[str, Any] | None:
        """CNI configuration of a node with these pod CIDRs; None when something else installs it."""


PLUGINS: dict[str, Plugin] = {"ptp": ptp, "bridge": bridge, "calico": calico, "none": none}
