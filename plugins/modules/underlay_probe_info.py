#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: underlay_probe_info
short_description: See whether nodes reach each other on the port of the overlay
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Run on several nodes at the same time, listens on the overlay's UDP port, sends datagrams to the other nodes from that port
    and answers theirs. Real packets on the real port, and nothing is installed or written.
  - Where the port is taken or guarded, as by a mesh that runs already, nothing is sent to others.
options:
  address:
    description: Address of this node on the underlay.
    type: str
    required: true
  port:
    description: UDP port of the overlay.
    type: int
    default: 4790
  targets:
    description: Underlay addresses of the other nodes, which run this module too.
    type: list
    elements: str
    required: true
  duration:
    description: Seconds to go on at most. Ends before that once all is known.
    type: float
    default: 10.0
extends_documentation_fragment:
  - clustermesh.core.attributes.node
"""

EXAMPLES = r"""
- name: See whether the nodes reach each other
  clustermesh.core.underlay_probe_info:
    address: 192.0.2.11
    targets: [192.0.2.21, 192.0.2.22]
  register: probe
"""

RETURN = r"""
busy:
  description: Why the port could not be used, empty when it could.
  type: str
  returned: success
silent:
  description: Targets that answered nothing.
  type: list
  elements: str
  returned: success
mtu:
  description: MTU of the interface that has the address, 0 where it is not known.
  type: int
  returned: success
"""

import contextlib
import ipaddress
import socket
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

HELLO = b"clustermesh probe hello"
ANSWER = b"clustermesh probe answer"
AGAIN_S = 0.3


def probe(address, port, targets, duration):
    """The targets that did not answer within ``duration`` seconds; answers theirs as long."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    silent, unheard, end = set(targets), set(targets), time.monotonic() + duration
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.bind((address, port))
        link.settimeout(AGAIN_S)
        greet_oneself(link)
        linger = None
        while time.monotonic() < (linger or end):
            for target in silent:
                send(link, HELLO, target, port)
            receive(link, silent, unheard)
            # the others may still need an answer when all is known here
            if not silent and not unheard and linger is None:
                linger = min(end, time.monotonic() + 3 * AGAIN_S)
    return sorted(silent)


def greet_oneself(link):
    """Raises OSError where the node drops even its own datagrams to the port, as the mesh does while no pair uses the overlay."""
    own, until = link.getsockname()[:2], time.monotonic() + 3 * AGAIN_S
    while time.monotonic() < until:
        send(link, HELLO, *own)
        with contextlib.suppress(OSError):
            while link.recvfrom(64)[1][:2] != own:
                pass
            return
    raise OSError("the node drops what comes to this port")


def send(link, what, target, port):
    """Sends; a refusal of this one datagram (no route, ICMP) is what silence is about."""
    with contextlib.suppress(OSError):
        link.sendto(what, (target, port))


def receive(link, silent, unheard):
    """Takes what has come within a moment, and answers greetings."""
    until = time.monotonic() + AGAIN_S
    while time.monotonic() < until:
        try:
            data, source = link.recvfrom(64)
        except OSError:
            return
        if data == HELLO:
            unheard.discard(source[0])
            send(link, ANSWER, source[0], source[1])
        elif data == ANSWER:
            silent.discard(source[0])


def mtu_of(module, address):
    """MTU of the interface with an address, by ip(8)."""
    code, output, dummy = module.run_command(["ip", "-oneline", "address", "show", "to", address])
    fields = output.split()
    if code or len(fields) < 2:
        return 0
    file = Path("/sys/class/net") / fields[1] / "mtu"
    return int(file.read_text()) if file.exists() else 0


def main():
    """Runs the module."""
    arguments = {
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "default": 4790},
        "targets": {"type": "list", "elements": "str", "required": True},
        "duration": {"type": "float", "default": 10.0},
    }
    module = AnsibleModule(arguments, supports_check_mode=True)
    params, busy, silent = module.params, "", []
    try:
        silent = probe(params["address"], params["port"], params["targets"], params["duration"])
    except (OSError, ValueError) as problem:
        busy = f"{params['address']}:{params['port']}: {problem}"
    module.exit_json(changed=False, busy=busy, silent=silent, mtu=mtu_of(module, params["address"]))


if __name__ == "__main__":
    main()
