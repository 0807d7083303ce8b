#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_probe_info
short_description: See which pods a node reaches
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Sends ICMP echo requests to pods, and tries to connect by TCP to those that do not answer them. A refused connection is an
    answer too, since it is the pod's.
  - Needs root for ICMP; without, only TCP is tried.
options:
  pods:
    description:
      - Name of a cluster to a list of its pods, as RV(clustermesh.core.mesh_info#module:pods) has them, each with C(address) and,
        where it has one, a TCP C(port).
    type: dict
    required: true
  duration:
    description: Seconds to wait for answers, of ICMP and then of TCP.
    type: float
    default: 3.0
extends_documentation_fragment:
  - clustermesh.core.attributes.node
"""

EXAMPLES = r"""
- name: See whether this node reaches two pods of another cluster
  clustermesh.core.pod_probe_info:
    pods:
      oslo:
        - address: 10.42.1.7
          port: 53
        - address: fd00:42:1::7
  register: probe
"""

RETURN = r"""
cut:
  description: Clusters of which pods are given and none answered.
  type: list
  elements: str
  returned: success
answered:
  description: Addresses that answered.
  type: list
  elements: str
  returned: success
silent:
  description: Addresses that did not.
  type: list
  elements: str
  returned: success
"""

import contextlib
import errno
import ipaddress
import os
import selectors
import socket
import struct
import time

from ansible.module_utils.basic import AnsibleModule

AGAIN_S = 0.3
ECHO = {4: (socket.AF_INET, socket.IPPROTO_ICMP, 8, 0), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129)}


def family(address):
    """4 or 6; ValueError for what is no address."""
    return ipaddress.ip_address(address).version


def checksum(data):
    """Of ICMP (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def request(version, number):
    """An echo request; the kernel fills in the checksum of ICMPv6."""
    kind = ECHO[version][2]
    body = struct.pack("!HH", number, 1) + b"clustermesh."
    return struct.pack("!BBH", kind, 0, checksum(struct.pack("!BBH", kind, 0, 0) + body)) + body


def is_reply(version, data, number):
    """Whether a packet is the answer to our requests. Of IPv4 the header comes along."""
    start = (data[0] & 15) * 4 if version == 4 and data else 0
    return len(data) >= start + 8 and data[start] == ECHO[version][3] and data[start + 4 : start + 6] == number


def echo(version, addresses, duration):
    """Those of the addresses that answered; OSError without the right to ask."""
    number, answered, end = os.getpid() & 0xFFFF, set(), time.monotonic() + duration
    wire = struct.pack("!H", number)
    with socket.socket(ECHO[version][0], socket.SOCK_RAW, ECHO[version][1]) as link:
        link.settimeout(AGAIN_S)
        while answered != set(addresses) and time.monotonic() < end:
            for address in set(addresses) - answered:
                with contextlib.suppress(OSError):  # no route: what silence is about
                    link.sendto(request(version, number), (address, 0))
            until = time.monotonic() + AGAIN_S
            while time.monotonic() < until and answered != set(addresses):
                with contextlib.suppress(OSError):
                    data, source = link.recvfrom(256)
                    if is_reply(version, data, wire):
                        answered.add(source[0])
    return answered & set(addresses)


def connect(targets, duration):
    """Addresses of those that took or refused a connection."""
    answered, end = set(), time.monotonic() + duration
    with selectors.DefaultSelector() as waiting, contextlib.ExitStack() as links:
        for target in targets:
            link = links.enter_context(socket.socket(ECHO[family(target["address"])][0], socket.SOCK_STREAM))
            link.setblocking(False)
            if link.connect_ex((target["address"], target["port"])) in (
                0,
                errno.EINPROGRESS,
            ):  # else there is no route
                waiting.register(link, selectors.EVENT_WRITE, target["address"])
        while waiting.get_map() and time.monotonic() < end:
            for key in [event[0] for event in waiting.select(max(0.0, end - time.monotonic()))]:
                error = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error in (0, errno.ECONNREFUSED):  # a refusal comes from the pod itself
                    answered.add(key.data)
                waiting.unregister(key.fileobj)
    return answered


def probe(targets, duration):
    """(answered, silent) addresses, each in the order of the targets."""
    addresses = [target["address"] for target in targets]
    answered = set()
    for version in (4, 6):
        own = [address for address in addresses if family(address) == version]
        if own:
            with contextlib.suppress(OSError):
                answered |= echo(version, own, duration)
    answered |= connect([t for t in targets if t["address"] not in answered and t.get("port")], duration)
    return [a for a in addresses if a in answered], [a for a in addresses if a not in answered]


def main():
    """Runs the module."""
    arguments = {"pods": {"type": "dict", "required": True}, "duration": {"type": "float", "default": 3.0}}
    module = AnsibleModule(arguments, supports_check_mode=True)
    pods = module.params["pods"]
    try:
        answered, silent = probe([pod for found in pods.values() for pod in found], module.params["duration"])
    except ValueError as problem:
        module.fail_json(msg=f"pods: {problem}")
    cut = [name for name, found in pods.items() if found and not {pod["address"] for pod in found} & set(answered)]
    module.exit_json(changed=False, answered=answered, silent=silent, cut=sorted(cut))


if __name__ == "__main__":
    main()
