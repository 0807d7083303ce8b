"""Questions put to real pods: who answers, and which source address it sees.

The pods run agnhost's ``netexec``, whose ``/dial`` makes the pod itself send requests, so an answer comes from inside
the pod's network namespace without a shell in the image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlencode

from clustermesh_lab.cluster import LabCluster

PORT = 9080


@dataclass(frozen=True)
class Pod:
    """A running pod, by the facts a probe needs."""

    cluster: str
    name: str
    node: str
    ips: tuple[str, ...]
    labels: dict[str, str]

    def ip(self, family: int = 4) -> str:
        return next(ip for ip in self.ips if ip_address(ip).version == family)


def pods(cluster: LabCluster, selector: str, namespace: str = "bookinfo") -> list[Pod]:
    """Ready pods that a label selector finds, by name."""
    answer = cluster.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
    return [
        Pod(
            cluster.name,
            item["metadata"]["name"],
            item["spec"]["nodeName"],
            tuple(entry["ip"] for entry in item["status"].get("podIPs", [])),
            item["metadata"].get("labels", {}),
        )
        for item in sorted(json.loads(answer)["items"], key=lambda item: item["metadata"]["name"])
        if "deletionTimestamp" not in item["metadata"]
        and any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", []))
    ]


def dial(
    cluster: LabCluster, client: Pod, host: str, request: str = "hostname", tries: int = 1, port: int = PORT
) -> list[str]:
    """What ``host`` answers to ``tries`` requests sent by the pod ``client``; failed ones are left out."""
    query = urlencode({"host": host, "port": port, "protocol": "http", "request": request, "tries": tries})
    own = f"[{client.ips[0]}]" if ":" in client.ips[0] else client.ips[0]
    url = f"http://{own}:{PORT}/dial?{query}"
    argv = ["curl", "--silent", "--show-error", "--globoff", "--max-time", str(5 + 2 * tries), url]
    done = cluster.nodes[client.node].exec(argv, check=False, timeout_s=30 + 2 * tries)
    return json.loads(done.stdout).get("responses", []) if done.returncode == 0 else []


def source_seen(cluster: LabCluster, client: Pod, server: str) -> str:
    """Source address that ``server`` sees when the pod ``client`` asks it, or an empty text."""
    answers = dial(cluster, client, server, "clientip")
    return answers[0].rsplit(":", 1)[0].strip("[]") if answers else ""
