#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: node_preflight_info
short_description: Say what stands against running the daemons on a node
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Looks at Python, the nftables library, systemd, what the kernel can do, the MTU of the underlay and the clock.
  - Writes nothing and loads no kernel module.
options:
  name:
    description: Name of the node in findings.
    type: str
    required: true
  address:
    description: Address of the node on the underlay, for its MTU.
    type: str
    default: ""
  python:
    description: The Python that is to run the daemons.
    type: path
    default: /usr/bin/python3
  daemon_mode:
    description: How the daemons are to run; an image brings Python, the nftables library and all else but the kernel along (V(kubernetes)).
    type: str
    choices: [systemd, kubernetes]
    default: systemd
  controller_time:
    description: Seconds since 1970 on the machine that runs Ansible, right before this task; 0 leaves the clock alone.
    type: float
    default: 0.0
extends_documentation_fragment:
  - clustermesh.core.attributes.node
"""

EXAMPLES = r"""
- name: Look at the node
  clustermesh.core.node_preflight_info:
    name: oslo/node-1
    address: 192.0.2.11
"""

RETURN = r"""
facts:
  description: What the node is.
  type: dict
  returned: success
  sample: {kernel: 6.1.0, python: 3.11.2, systemd: 252, mtu: 1500, nexthops: true, vxlan: true, nftables: true, clock_offset: 0.1}
findings:
  description: As those of M(clustermesh.core.preflight_info).
  type: list
  elements: dict
  returned: success
"""

import os
import re
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _node

PYTHON = """
import ctypes, platform
try:
    import venv
    has_venv = 1
except ImportError:
    has_venv = 0
try:
    ctypes.CDLL("libnftables.so.1")
    nft = 1
except OSError:
    nft = 0
print(platform.python_version(), has_venv, nft)
"""


def run(module, *argv):
    """How a program ends and what it prints; None and nothing where it is not there."""
    try:
        return module.run_command(list(argv), handle_exceptions=False)[:2]
    except OSError:
        return None, ""


def output(module, *argv):
    """What a program prints; empty when it fails or is not there."""
    code, out = run(module, *argv)
    return out.strip() if code == 0 else ""


def has_feature(module, name):
    """Whether the kernel has a feature that may be built in or a module, loaded or not; None where that cannot be told."""
    release = os.uname().release
    builtin = Path(f"/lib/modules/{release}/modules.builtin")
    if Path(f"/sys/module/{name}").exists() or (builtin.exists() and f"/{name}.ko" in builtin.read_text()):
        return True
    if not builtin.exists():
        return None  # a kernel without a module tree does not say
    code = run(module, "modprobe", "--dry-run", "--quiet", name)[0]
    return None if code is None else code == 0


def mtu(module, address):
    """MTU of the interface with an address; 0 where nobody has it."""
    fields = output(module, "ip", "-oneline", "address", "show", "to", address).split() if address else []
    file = Path("/sys/class/net") / (fields[1] if len(fields) > 1 else "-") / "mtu"
    return int(file.read_text()) if file.exists() else 0


def facts_of(module):
    """The facts of the node."""
    params, now = module.params, time.time()
    python = output(module, params["python"], "-c", PYTHON).split()
    systemd = re.search(r"systemd (\d+)", output(module, "systemctl", "--version"))
    return {
        "kernel": os.uname().release,
        "python": python[0] if python else "",
        "venv": bool(python) and python[1] == "1",
        "nftables_library": bool(python) and python[2] == "1",
        "systemd": int(systemd.group(1)) if systemd else 0,
        "vxlan": has_feature(module, "vxlan"),
        "nftables": has_feature(module, "nf_tables"),
        "nexthops": run(module, "ip", "nexthop", "show")[0] == 0,
        "mtu": mtu(module, params["address"]),
        "clock_offset": round(now - params["controller_time"], 1) if params["controller_time"] else 0.0,
    }


def main():
    """Runs the module."""
    arguments = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "default": ""},
        "python": {"type": "path", "default": "/usr/bin/python3"},
        "daemon_mode": {"type": "str", "choices": ["systemd", "kubernetes"], "default": "systemd"},
        "controller_time": {"type": "float", "default": 0.0},
    }
    module = AnsibleModule(arguments, supports_check_mode=True)
    params, facts = module.params, facts_of(module)
    findings = _node.findings(params["name"], facts, params["python"], params["daemon_mode"])
    module.exit_json(changed=False, facts=facts, findings=findings)


if __name__ == "__main__":
    main()
