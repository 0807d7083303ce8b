# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What must hold on a node before the daemons run there. Pure functions over its facts."""

from __future__ import annotations

import re

from ansible_collections.clustermesh.core.plugins.module_utils._preflight import CLOCK_S, finding

PYTHON = (3, 11)
SYSTEMD = 247
MTU = 1280 + 70  # what IPv6 needs inside of VXLAN over IPv6


def findings(name, facts, python, daemon_mode="systemd"):
    """What stands against running the daemons; None among the facts is what could not be told."""
    programs = _programs(name, facts, python) if daemon_mode == "systemd" else ()  # an image has its own
    found = [*programs, *_kernel(name, facts)]
    if abs(facts["clock_offset"]) > CLOCK_S:
        message = f"the clock of {name} is {facts['clock_offset']:+.0f} s off that of this machine"
        found.append(finding("clock", name, message, "run NTP on both: tokens are judged by clocks", "warning"))
    return found


def _programs(name, facts, python):
    version = tuple(int(number) for number in re.findall(r"\d+", facts["python"])[:2])
    if version < PYTHON:
        message = f"{python} of {name} is {facts['python'] or 'not there'}"
        yield finding("node-python", name, message, "install Python 3.11 or newer, or set mesh_daemon_python")
    elif not facts["venv"]:
        yield finding("node-venv", name, f"{python} of {name} has no venv", "install python3-venv")
    if version and not facts["nftables_library"]:
        yield finding("node-nftables", name, f"libnftables.so.1 is missing on {name}", "install libnftables1")
    if facts["systemd"] < SYSTEMD:
        message = f"systemd of {name} is {facts['systemd'] or 'not there'}"
        yield finding("node-systemd", name, message, f"the units need systemd {SYSTEMD} or newer")


def _kernel(name, facts):
    for key, hint in (("vxlan", "CONFIG_VXLAN"), ("nftables", "CONFIG_NF_TABLES")):
        if facts[key] is False:
            message = f"kernel {facts['kernel']} of {name} has no {key}"
            yield finding(f"node-{key}", name, message, f"use a kernel with {hint}, or install its extra modules")
    if not facts["nexthops"]:
        message = f"kernel {facts['kernel']} or iproute2 of {name} has no nexthop objects"
        yield finding(
            "node-nexthops", name, message, "the mesh works without, slower with thousands of nodes", "warning"
        )
    if 0 < facts["mtu"] < MTU:
        message = f"the underlay of {name} has MTU {facts['mtu']}"
        yield finding("node-mtu", name, message, f"IPv6 in the overlay needs {MTU}", "warning")


def unequal_mtus(mtus):
    """A finding when the underlays of nodes differ; ``mtus`` is node -> MTU."""
    known = {mtu: name for name, mtu in sorted(mtus.items(), reverse=True) if mtu}
    if len(known) < 2:
        return []
    small, large = min(known), max(known)
    message = f"underlay MTUs differ: {known[small]} has {small}, {known[large]} has {large}"
    hint = "the probes of the agents find what passes; equal MTUs save the search"
    return [finding("mtu", f"{known[small]},{known[large]}", message, hint, "warning")]


def unreachable(name, silent, port):
    """Findings for the nodes that did not answer on the overlay's port; ``silent`` are their names."""
    hint = f"let UDP port {port} pass both ways between the nodes of all clusters (firewall, security group)"
    return [finding("underlay", f"{name},{other}", f"{name} gets no answer from {other}", hint) for other in silent]
