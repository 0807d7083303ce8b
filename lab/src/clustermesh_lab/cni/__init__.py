"""How pods of a node get their network: one module for each plug-in.

A plug-in says two things, both as values: the CNI configuration of a node once its pod CIDRs are known, and whether
the lab routes pod CIDRs between the nodes itself (it does for plug-ins that have no routing of their own). Programs
inside a node import this package, so it needs the standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from . import bridge, none, ptp

if TYPE_CHECKING:
    from collections.abc import Sequence


class Plugin(Protocol):
    """What a module of this package offers."""

    LAB_ROUTES: bool
    """The lab masquerades what leaves the cluster and routes pod CIDRs between nodes."""

    def conflist(self, pod_cidrs: Sequence[str], mtu: int) -> dict[str, Any] | None:
        """CNI configuration of a node with these pod CIDRs; None when something else installs it."""


PLUGINS: dict[str, Plugin] = {"ptp": ptp, "bridge": bridge, "none": none}
