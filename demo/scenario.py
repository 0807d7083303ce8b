"""What can be done with two meshed lab clusters: run the playbook, deploy the example, look, change, look again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clustermesh_lab import Lab, inventory
from clustermesh_lab.cluster import LabCluster

from demo import probes

ROOT = Path(__file__).parent.parent
NAMESPACE = "bookinfo"


class NotAsPromised(Exception):
    """Something the README promises did not come true."""


@dataclass(frozen=True)
class Recap:
    """The last lines of a playbook run, per host."""

    hosts: dict[str, dict[str, int]]
    output: str

    @property
    def changes(self) -> dict[str, int]:
        """Tasks that changed something, or in a check run would, by host."""
        return {name: host["changed"] for name, host in self.hosts.items()}

    @property
    def changed(self) -> int:
        return sum(self.changes.values())


def playbook(lab: Lab, name: str = "mesh.yml", *extra: str, echo: bool = False) -> Recap:
    """Runs a playbook of this checkout against a lab; raises with its output when it fails."""
    inventory = write_inventory(lab)
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), name, *extra]
    env = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    with subprocess.Popen(
        argv, cwd=ROOT, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if echo and line.startswith(("PLAY [", "TASK [", "fatal:", "failed:")):
                print(f"    {line.rstrip(' *' + chr(10))}", flush=True)
    output = "".join(lines)
    if process.returncode:
        raise NotAsPromised(f"ansible-playbook {name} ended with {process.returncode}:\n{output[-6000:]}")
    return Recap(_recap(output), output)


def write_inventory(lab: Lab) -> Path:
    """The lab's clusters and machines as an inventory file, for this and for later runs by hand."""
    path = ROOT / "build" / f"inventory-{lab.name}.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(inventory.text(lab))
    return path


def _recap(output: str) -> dict[str, dict[str, int]]:
    found = re.findall(r"^(\S+)\s+: (ok=\d+.*)$", output, re.MULTILINE)
    return {
        host: {key: int(value) for key, value in (pair.split("=") for pair in counts.split())}
        for host, counts in found
    }


def deploy(lab: Lab) -> None:
    """Applies the bookinfo example to every cluster that has a manifest, and waits until its pods are ready."""
    for cluster in lab.clusters.values():
        cluster.kubectl("apply", "-f", str(Path(__file__).parent / "bookinfo" / f"{cluster.name}.yaml"))
    for cluster in lab.clusters.values():
        cluster.kubectl("-n", NAMESPACE, "wait", "--for=condition=Available", "deployment", "--all", "--timeout=90s")


def addresses(cluster: LabCluster, service: str) -> set[str]:
    """Addresses of an Endpoints object, as ``kubectl get endpoints`` shows them; empty when there is none."""
    answer = cluster.kubectl("-n", NAMESPACE, "get", "endpoints", service, "-o", "json", "--ignore-not-found")
    subsets = json.loads(answer).get("subsets") or [] if answer.strip() else []
    return {address["ip"] for subset in subsets for address in subset.get("addresses") or []}


def endpoints_table(cluster: LabCluster) -> str:
    """``kubectl get endpoints`` of the example's namespace."""
    answer = cluster.kubectl("-n", NAMESPACE, "get", "endpoints")
    return "\n".join(line for line in answer.splitlines() if not line.startswith("Warning"))


def expected(lab: Lab, app: str, family: int = 4) -> set[str]:
    """Addresses of all ready pods of an app in all clusters."""
    return set().union(*(expected_in(cluster, app, family) for cluster in lab.clusters.values()))


def expected_in(cluster: LabCluster, app: str, family: int = 4) -> set[str]:
    """Addresses of the ready pods of an app in one cluster."""
    return {pod.ip(family) for pod in probes.pods(cluster, f"app={app}")}


def until(what: str, check: Callable[[], bool], timeout_s: float = 30.0, pause_s: float = 0.1) -> float:
    """Seconds until ``check`` holds; NotAsPromised when it does not within ``timeout_s``."""
    started = time.monotonic()
    while not check():
        if time.monotonic() - started > timeout_s:
            raise NotAsPromised(f"{what}: not within {timeout_s:g} s")
        time.sleep(pause_s)
    return time.monotonic() - started


def federated(lab: Lab) -> float:
    """Waits until every cluster's federated Services list every backend of the mesh; the time it took."""

    def complete() -> bool:
        return all(
            addresses(cluster, app) == expected(lab, app)
            for app in ("reviews", "ratings")
            for cluster in lab.clusters.values()
        )

    return until("federated Services list all backends", complete, 60)


@dataclass(frozen=True)
class Crossing:
    """A request from a pod to a pod of another cluster, and the source address the server saw."""

    client: probes.Pod
    server: probes.Pod
    source: str

    @property
    def is_preserved(self) -> bool:
        return self.source in self.client.ips


def crossings(lab: Lab, family: int = 4) -> list[Crossing]:
    """One request from every client pod to every reviews pod of every other cluster."""
    found = []
    for local in lab.clusters.values():
        for remote in lab.clusters.values():
            if remote is local:
                continue
            for client in probes.pods(local, "app=productpage"):
                for server in probes.pods(remote, "app=reviews"):
                    source = probes.source_seen(local, client, server.ip(family))
                    found.append(Crossing(client, server, source))
    return found


def answers(lab: Lab, cluster: str, host: str, tries: int = 20) -> Counter[str]:
    """Which cluster answered how many of ``tries`` requests of a pod to a Service, by its name."""
    here = lab.clusters[cluster]
    (client, *_) = probes.pods(here, "app=productpage")
    homes = {
        pod.name: other.name
        for other in lab.clusters.values()
        for app in ("reviews", "ratings")
        for pod in probes.pods(other, f"app={app}")
    }
    return Counter(homes.get(name, name) for name in probes.dial(here, client, host, "hostname", tries))


def scale(lab: Lab, cluster: str, deployment: str, replicas: int) -> None:
    lab.clusters[cluster].kubectl("-n", NAMESPACE, "scale", "deployment", deployment, f"--replicas={replicas}")
