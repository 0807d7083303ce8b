"""A numbered UDP stream between two pods, to count what is lost while something is killed.

Sender and receiver are small programs that run in the pods' own network namespaces and end when their standard input
does; the test ends the sender once it has done its harm.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field

from clustermesh_lab.cluster import LabCluster

from demo.probes import Pod

_RECEIVER = """
import json, select, socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
sock.bind((sys.argv[1], int(sys.argv[2])))
seen, sources = set(), set()
print("listening", flush=True)
while True:
    ready = select.select([sock, sys.stdin], [], [])[0]
    if sock in ready:
        data, peer = sock.recvfrom(64)
        seen.add(int(data)); sources.add(peer[0])
    elif ready:
        break
print(json.dumps({"seen": len(seen), "sources": sorted(sources)}), flush=True)
"""
_SENDER = """
import select, socket, sys, time
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
number, start = 0, time.monotonic()
print("sending", flush=True)
while not select.select([sys.stdin], [], [], max(0.0, start + number / 1000 - time.monotonic()))[0]:
    number += 1
    sock.sendto(b"%d" % number, (sys.argv[1], int(sys.argv[2])))
print(number, flush=True)
"""
_FIND = """
for ns in /var/run/netns/* /run/netns/*; do
  test -e "$ns" && nsenter --net="$ns" ip -o addr | grep -qF " $1/" && echo "$ns" && exit
done; exit 1
"""


def pod_netns(cluster: LabCluster, pod: Pod) -> str:
    """Path of the pod's network namespace inside its node."""
    return cluster.nodes[pod.node].exec(["sh", "-c", _FIND, "find", pod.ips[0]]).stdout.strip()


@dataclass
class Stream:
    """1,000 numbered packets a second from one pod to another, until ``end``."""

    source: tuple[LabCluster, Pod]
    target: tuple[LabCluster, Pod]
    port: int = 9999
    family: int = 4
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Stream:
        address = self.target[1].ip(self.family)
        self._start(self.target, _RECEIVER, address)
        self._start(self.source, _SENDER, address)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _start(self, place: tuple[LabCluster, Pod], program: str, address: str) -> None:
        cluster, pod = place
        argv = ["nsenter", f"--net={pod_netns(cluster, pod)}", "python3", "-c", program, address, str(self.port)]
        line = cluster.nodes[pod.node].enter_command(argv)
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() in ("listening", "sending")

    def end(self) -> dict[str, object]:
        """Stops the sender, waits for stragglers, stops the receiver: sent, lost, sources."""
        receiver, sender = self._processes
        sent = int(sender.communicate("", timeout=10)[0].split()[-1])
        time.sleep(0.5)
        report = json.loads(receiver.communicate("", timeout=10)[0].splitlines()[-1])
        return {"sent": sent, "lost": sent - report["seen"], "sources": report["sources"]}
