"""A numbered UDP stream between two pods, to count what is lost while something is killed.

Sender and receiver are small programs that run in the pods' own network namespaces; the stream's length is set by the
test, which stops the sender once it has done its harm.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field

from clustermesh_lab.cluster import LabCluster

from demo.probes import Pod

_RECEIVER = """
import json, signal, socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
sock.bind((sys.argv[1], int(sys.argv[2])))
seen, sources = set(), set()
def end(*_):
    print(json.dumps({"seen": len(seen), "highest": max(seen, default=0), "sources": sorted(sources)}), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("listening", flush=True)
while True:
    data, peer = sock.recvfrom(64)
    seen.add(int(data)); sources.add(peer[0])
"""
_SENDER = """
import signal, socket, sys, time
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
number, start = 0, time.monotonic()
print("sending", flush=True)
while not stop:
    number += 1
    sock.sendto(b"%d" % number, (sys.argv[1], int(sys.argv[2])))
    time.sleep(max(0.0, start + number / 1000 - time.monotonic()))
print(number, flush=True)
"""


def pod_netns(cluster: LabCluster, pod: Pod) -> str:
    """Name of the pod's network namespace inside its node."""
    node = cluster.nodes[pod.node]
    for name in node.exec(["ip", "-o", "netns", "list"]).stdout.split():
        if name.startswith("cni-") and f" {pod.ips[0]}/" in node.exec(["ip", "-n", name, "-o", "addr"]).stdout:
            return name
    raise LookupError(f"no network namespace on {pod.node} has {pod.ips[0]}")


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
        argv = ["ip", "netns", "exec", pod_netns(cluster, pod), "python3", "-c", program, address, str(self.port)]
        line = cluster.nodes[pod.node].enter_command(argv)
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() in ("listening", "sending")

    def end(self) -> dict[str, object]:
        """Stops the sender, waits for stragglers, stops the receiver: sent, lost, sources."""
        receiver, sender = self._processes
        sender.terminate()
        sent = int(sender.communicate(timeout=10)[0].split()[-1])
        time.sleep(0.5)
        receiver.terminate()
        report = json.loads(receiver.communicate(timeout=10)[0].splitlines()[-1])
        return {"sent": sent, "lost": sent - report["seen"], "sources": report["sources"]}
