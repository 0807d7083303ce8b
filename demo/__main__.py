"""``python -m demo``: two real clusters, one playbook, pods that reach each other, a federated Service."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from clustermesh_lab import Lab, LabError, Topology

from demo import scenario
from demo.scenario import NotAsPromised

_STARTED = time.monotonic()


def say(text: str) -> None:
    print(f"\n==> [{time.monotonic() - _STARTED:5.1f} s] {text}", flush=True)


def show(text: str) -> None:
    print("\n".join(f"    {line}" for line in text.splitlines()), flush=True)


def demand(claim: str, holds: bool) -> None:
    if not holds:
        raise NotAsPromised(claim)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--lab", default="demo", help="name of the lab (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        lab = _mesh(arguments.lab)
        _routes(lab)
        _services(lab)
        _changes(lab)
        _goodbye(lab)
    except (NotAsPromised, LabError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None)
        print(f"\nNOT AS IT SHOULD BE: {error}\n{detail or ''}", file=sys.stderr)
        print(
            f"The lab is left for a look: lab --lab {arguments.lab} status; make demo-down removes it.",
            file=sys.stderr,
        )
        return 1
    return 0


def _mesh(name: str) -> Lab:
    say("Two real Kubernetes clusters, two nodes each, on routed subnets (the first time builds them: minutes)")
    lab = Lab.up(Topology.preset("demo"), name=name, machines=True)
    for cluster in lab.clusters.values():
        show(cluster.kubectl("get", "nodes", "-o", "wide", "--no-headers"))
    say("ansible-playbook mesh.yml")
    recap = scenario.playbook(lab, echo=True)
    show("\n".join(f"{host:<12} {counts}" for host, counts in recap.hosts.items()))
    return lab


def _routes(lab: Lab) -> None:
    say("The bookinfo example: reviews-v1 and ratings in east, reviews-v2 and -v3 in west, both Services federated")
    scenario.deploy(lab)
    say("Pods reach pods of the other cluster by their own address, and the server sees the pod's own source")
    rows = [f"{'CLIENT POD':<42}{'SERVER POD':<42}SOURCE SEEN BY THE SERVER"]
    crossings = scenario.crossings(lab)
    for c in crossings:
        client = f"{c.client.cluster}/{c.client.name[:24]} {c.client.ip()}"
        server = f"{c.server.cluster}/{c.server.name[:24]} {c.server.ip()}"
        rows.append(f"{client:<42}{server:<42}{c.source or 'no answer'}")
    show("\n".join(rows))
    demand("every request crosses and keeps its source", bool(crossings) and all(c.is_preserved for c in crossings))


def _services(lab: Lab) -> None:
    scenario.federated(lab)
    for name, cluster in lab.clusters.items():
        say(f"kubectl get endpoints in {name}")
        show(scenario.endpoints_table(cluster))
    for name in lab.clusters:
        say(
            f"20 requests of a pod in {name} to http://reviews.{scenario.NAMESPACE}:9080, by the cluster that answered"
        )
        counts = scenario.answers(lab, name, f"reviews.{scenario.NAMESPACE}")
        show(", ".join(f"{cluster}: {count}" for cluster, count in sorted(counts.items())))
        demand(
            "all 20 requests are answered, by both clusters", counts.total() == 20 and set(counts) == {"east", "west"}
        )


def _changes(lab: Lab) -> None:
    east = lab.clusters["east"]
    for replicas in (3, 1):
        say(f"reviews-v2 in west is scaled to {replicas}; east's federated Service follows")
        before = scenario.addresses(east, "reviews")
        scenario.scale(lab, "west", "reviews-v2", replicas)
        want = replicas + 2
        took = scenario.until("the change is seen", lambda want=want: len(scenario.addresses(east, "reviews")) == want)  # type: ignore[misc]
        show(f"{len(before)} -> {want} endpoints after {took:.1f} s (pod start or end included)")


def _goodbye(lab: Lab) -> None:
    say("clustermesh status (east)")
    command = [str(Path(sys.executable).parent / "clustermesh"), "--kubeconfig", str(lab.clusters["east"].kubeconfig)]
    answer = subprocess.run([*command, "status"], capture_output=True, text=True, check=False)
    show(answer.stdout + answer.stderr)
    demand("clustermesh status finds everything in order", answer.returncode == 0)
    say("All as promised. Look around (source .venv/bin/activate):")
    show(
        f"""lab --lab {lab.name} status
lab --lab {lab.name} kubectl -c east get rcc,remotenodes,meshnodes
lab --lab {lab.name} kubectl -c east -n bookinfo get services,endpointslices
lab --lab {lab.name} exec east/n1 -- ip route show table 4097
lab --lab {lab.name} exec east/n1 -- nft list table inet clustermesh
lab --lab {lab.name} ssh east/n1 -- journalctl -u clustermesh-agent
clustermesh --kubeconfig {lab.clusters["east"].kubeconfig} eval "app == 'reviews'"
make demo-down"""
    )


if __name__ == "__main__":
    sys.exit(main())
