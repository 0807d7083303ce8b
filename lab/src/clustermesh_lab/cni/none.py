"""No pod network at all: nodes stay NotReady until something (a DaemonSet, a test) brings one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

LAB_ROUTES = False
LAB_INSTALLS = False


def conflist(pod_cidrs: Sequence[str], mtu: int) -> dict[str, Any] | None:
    """Nothing: whoever brings the pod network installs its own configuration."""
    return None
