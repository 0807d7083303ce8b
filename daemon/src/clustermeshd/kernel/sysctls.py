"""Kernel settings the overlay leans on. Read only: the node's owner sets them (the Ansible role), the agent tells."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FORWARDING: Final = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


def read_forwarding() -> dict[int, bool]:
    """Whether each family is forwarded; a family the kernel does not have is left out."""
    found = {}
    for family, name in FORWARDING.items():
        path = Path("/proc/sys", *name.split("."))
        if path.exists():
            found[family] = path.read_text().strip() == "1"
    return found
