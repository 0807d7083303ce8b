"""The mesh beside a complete real Calico (VXLAN, default address detection, its masquerade on), on preset `calico`.

Felix is made to look after its objects every second. That it did is seen by what it sweeps: objects planted among its
own are gone once it has passed. While it is watched the agent does not run, so nothing of ours can have been repaired;
while the agent is watched Felix does not run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from clustermesh_lab import Lab
from clustermesh_lab.cluster import LabCluster, LabNode
from clustermesh_lab.network import ip

from demo import probes, scenario
from demo.probes import Pod
from tests.e2e.streams import Stream

PRESET = "calico"
pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

FELIX = "calico-felix"
PERIODS = 10
INTERVALS = ("routeRefreshInterval", "interfaceRefreshInterval", "nftablesRefreshInterval", "ipsetsRefreshInterval")
# Links with their index and rules with their handles: an object that was made anew differs.
OURS = """
ip -d -o link show clustermesh0; ip -o address show dev clustermesh0; bridge fdb show dev clustermesh0
ip neigh show dev clustermesh0; ip nexthop; ip rule; ip -6 rule; ip route show table 4097
nft -s -a list table inet clustermesh
"""
CALICO_S = """
ip -d -o link show vxlan.calico; ip -o address; bridge fdb show dev vxlan.calico; ip neigh show dev vxlan.calico
ip route show table main; ip -o link | grep -o 'cali.*'; nft -s -a list table ip calico
"""
PLANT = """
ip route add blackhole 192.0.2.77/32 proto 80
nft insert rule ip calico filter-FORWARD counter comment foreign
bridge fdb add 0e:00:00:00:00:77 dev vxlan.calico dst 192.0.2.77 self permanent
"""
PLANTED = """
ip route | grep 192.0.2.77; nft list chain ip calico filter-FORWARD | grep foreign
bridge fdb show dev vxlan.calico | grep 192.0.2.77
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: bookinfo, labels: {{app: pinned, name: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
    args: [netexec, --http-port=9080]
    readinessProbe: {{httpGet: {{path: /healthz, port: 9080}}, periodSeconds: 1}}
"""
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: guard, namespace: bookinfo}}
spec:
  podSelector: {{matchLabels: {{name: near}}}}
  ingress: [{{from: [{{ipBlock: {{cidr: {allowed}/32}}}}]}}]
"""


@pytest.fixture(scope="module")
def west(meshed: Lab) -> LabCluster:
    """The cluster with Calico, a pod pinned on each of its nodes, Felix looking after its objects every second."""
    cluster = meshed.clusters["west"]
    cluster.kubectl("apply", "-f", "-", stdin="---".join(POD.format(name=p, node=n) for p, n in PINNED.items()))
    spec = {"spec": dict.fromkeys(INTERVALS, "1s")}
    what = ("felixconfigurations.crd.projectcalico.org", "default")
    before = {n: felix_pid(node) for n, node in cluster.nodes.items()}
    cluster.kubectl("patch", *what, "--type=merge", "-p", json.dumps(spec))
    cluster.kubectl("-n", "bookinfo", "wait", "pod", "-l", "app=pinned", "--for=condition=Ready", "--timeout=60s")
    for name, node in cluster.nodes.items():
        wait_felix(node, before[name])
    return cluster


PINNED = {"near": "n1", "far": "n2"}


def pinned(west: LabCluster, name: str) -> Pod:
    (pod,) = probes.pods(west, f"name={name}")
    return pod


def state(node: LabNode, script: str) -> list[str]:
    return node.exec(["sh", "-c", script]).stdout.splitlines()


def felix_pid(node: LabNode) -> str:
    file = node.control / f"{FELIX}.pid"
    return file.read_text() if file.exists() else ""


def wait_felix(node: LabNode, before: str) -> None:
    """Until another Felix than `before` runs and says that it is ready."""
    ready = ["curl", "-sf", "-m", "2", "http://localhost:9099/readiness"]
    scenario.until("another Felix runs", lambda: felix_pid(node) not in ("", before))
    scenario.until("Felix is ready", lambda: node.exec(ready, check=False).returncode == 0)


def pass_of_felix(node: LabNode) -> None:
    """Plants what Felix sweeps among its own objects, and waits until it has."""
    node.exec(["sh", "-ec", PLANT])
    scenario.until("Felix swept", lambda: node.exec(["sh", "-c", PLANTED], check=False).stdout == "", pause_s=0.05)


@contextmanager
def without_agent(node: LabNode) -> Iterator[None]:
    node.ssh(["systemctl", "stop", "clustermesh-agent"])
    try:
        yield
    finally:
        node.ssh(["systemctl", "start", "clustermesh-agent"])  # returns after the agent's first complete pass


@contextmanager
def without_felix(meshed: Lab) -> Iterator[None]:
    meshed.fault.stop("west/n1", FELIX)
    try:
        yield
    finally:
        meshed.fault.resume("west/n1", FELIX)
        wait_felix(meshed.node("west/n1"), "")


def test_pods_of_calico_and_of_a_plain_cluster_reach_each_other_and_keep_their_source(meshed: Lab, west: LabCluster):
    crossings = scenario.crossings(meshed)
    assert {(c.client.cluster, c.server.cluster) for c in crossings} == {("east", "west"), ("west", "east")}
    assert [c for c in crossings if not c.is_preserved] == []


@pytest.mark.parametrize("cluster", ["east", "west"])
def test_a_federated_service_is_answered_by_both_clusters(meshed: Lab, west: LabCluster, cluster: str):
    assert set(scenario.answers(meshed, cluster, f"reviews.{scenario.NAMESPACE}", 20)) == {"east", "west"}


def test_calico_still_masquerades_what_leaves_the_mesh(meshed: Lab, west: LabCluster):
    host = meshed.clusters["east"].nodes["n1"]
    program = "import socket; s = socket.create_server(('', 7777)); s.settimeout(10); print(s.accept()[1][0])"
    argv = host.enter_command(["python3", "-c", program])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        scenario.until("the server listens", lambda: ":7777" in host.exec(["ss", "-ltn"]).stdout)
        probes.dial(west, pinned(west, "near"), host.address, port=7777)
        assert server.communicate(timeout=20)[0].strip() == west.nodes["n1"].address


def test_calico_s_own_traffic_between_nodes_keeps_its_way_and_its_source(west: LabCluster):
    near, far = pinned(west, "near"), pinned(west, "far")
    for client, server in ((near, far), (far, near)):
        assert probes.source_seen(west, client, server.ip()) == client.ip()
        assert "dev vxlan.calico" in west.nodes[client.node].exec(["ip", "route", "get", server.ip()]).stdout


def test_hosts_beside_calico_reach_remote_pods_with_calico_s_tunnel_address(meshed: Lab, west: LabCluster):
    (server, *_) = probes.pods(meshed.clusters["east"], "app=reviews")
    for name, node in west.nodes.items():
        seen = node.exec(["curl", "-sS", "--max-time", "5", f"http://{server.ip()}:{probes.PORT}/clientip"]).stdout
        assert seen.rsplit(":", 1)[0] == annotation(west, name, "IPv4VXLANTunnelAddr")


def test_packets_of_the_mesh_meet_the_policy_of_calico(meshed: Lab, west: LabCluster):
    (client, *_) = probes.pods(meshed.clusters["east"], "app=productpage")
    near = pinned(west, "near")

    def seen() -> str:
        return probes.source_seen(meshed.clusters["east"], client, near.ip())

    try:
        west.kubectl("apply", "-f", "-", stdin=POLICY.format(allowed="192.0.2.1"))
        scenario.until("the policy forbids", lambda: seen() == "")
        west.kubectl("apply", "-f", "-", stdin=POLICY.format(allowed=client.ip()))
        scenario.until("the policy admits", lambda: seen() == client.ip())
    finally:
        west.kubectl("-n", "bookinfo", "delete", "networkpolicy", "guard", "--wait=false")


def annotation(cluster: LabCluster, node: str, name: str) -> str:
    node_object = json.loads(cluster.kubectl("get", "node", node, "-o", "json"))
    return node_object["metadata"]["annotations"].get(f"projectcalico.org/{name}", "")


def test_calico_s_address_detection_never_takes_the_mesh_for_the_node(west: LabCluster):
    def looks() -> dict[str, int]:
        logs = {name: node.logs / "calico-startup.log" for name, node in west.nodes.items()}
        return {name: log.read_text().count("Using autodetected IPv4 address") for name, log in logs.items()}

    before = looks()
    scenario.until("Calico looked twice on each node", lambda: all(n > before[at] + 1 for at, n in looks().items()))
    for name, node in west.nodes.items():
        assert "clustermesh0" in node.exec(["ip", "link"]).stdout
        assert annotation(west, name, "IPv4Address") == f"{node.address}/24"


def test_felix_touches_nothing_of_ours_in_ten_passes_and_a_restart(meshed: Lab, west: LabCluster):
    node = west.nodes["n1"]
    before = state(node, OURS)
    with without_agent(node), streams(meshed, west) as lost:
        for _ in range(PERIODS):
            pass_of_felix(node)
        assert state(node, OURS) == before
        killed = felix_pid(node)
        meshed.fault.kill("west/n1", FELIX)
        wait_felix(node, killed)
        pass_of_felix(node)
        assert state(node, OURS) == before
    assert lost == [0, 0, 0]


def test_a_killed_agent_touches_nothing_of_calico_and_makes_nothing_anew(meshed: Lab, west: LabCluster):
    node = west.nodes["n1"]
    with without_felix(meshed), streams(meshed, west) as lost:
        before, ours = state(node, CALICO_S), state(node, OURS)
        for _ in range(3):
            node.ssh(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "clustermesh-agent"])
            node.ssh(["systemctl", "restart", "clustermesh-agent"])  # returns after the agent's first complete pass
        assert state(node, CALICO_S) == before
        assert state(node, OURS) == ours
    assert lost == [0, 0, 0]


def test_a_switch_to_the_underlay_brings_calico_a_pool_and_the_way_back_takes_it_away(meshed: Lab, west: LabCluster):
    """The lab's router is the network that routes to the pods then."""
    east = meshed.clusters["east"]
    blocks = json.loads(west.kubectl("get", "ipamblocks.crd.projectcalico.org", "-o", "json"))["items"]
    ways = [(block["spec"]["cidr"], west.nodes[block["spec"]["affinity"].split(":")[1]]) for block in blocks]
    ways += [(cidr, node) for node in east.nodes.values() for cidr in node.pod_cidrs]
    for cidr, node in ways:
        ip(meshed.router, f"route replace {cidr} via {node.address}")
    switch, off = "clustermesh.core.switch_overlay", (True, False, True, "Never", "Never")
    theirs = pools(west)
    scenario.playbook(meshed, switch, "-e", "mesh_overlay=Disabled")
    made = {cidr: settings for cidr, settings in pools(west).items() if cidr not in theirs}
    assert made == {cidr: off for node in east.nodes.values() for cidr in node.pod_cidrs}
    assert_way(meshed, west, by_overlay=False)
    for node in west.nodes.values():
        scenario.until("Felix masquerades nothing to them", lambda node=node: set(made) <= not_masqueraded(node))

    foretold = scenario.playbook(meshed, switch, "--check")
    assert scenario.playbook(meshed, switch).changes == foretold.changes
    assert pools(west) == theirs
    assert_way(meshed, west, by_overlay=True)
    for node in west.nodes.values():
        scenario.until("Felix has let go of them", lambda node=node: not set(made) & not_masqueraded(node))


def pools(west: LabCluster) -> dict[str, tuple[object, ...]]:
    """Calico's IPPools: CIDR -> what makes it one for addresses of others."""
    keys = ("disabled", "natOutgoing", "disableBGPExport", "ipipMode", "vxlanMode")
    found = json.loads(west.kubectl("get", "ippools.crd.projectcalico.org", "-o", "json"))["items"]
    return {pool["spec"]["cidr"]: tuple(pool["spec"].get(key) for key in keys) for pool in found}


def not_masqueraded(node: LabNode) -> set[str]:
    """Destinations that Felix exempts."""
    listed = json.loads(node.exec(["nft", "-j", "list", "sets", "table", "ip", "calico"]).stdout)["nftables"]
    (found,) = (s["set"] for s in listed if "set" in s and s["set"]["name"].endswith("all-ipam-pools"))
    return {f"{e['prefix']['addr']}/{e['prefix']['len']}" for e in found.get("elem", ())}


def assert_way(meshed: Lab, west: LabCluster, *, by_overlay: bool) -> None:
    """Pods reach pods of the other cluster with their own addresses, all the same way."""
    crossings = scenario.crossings(meshed)
    assert crossings
    assert [c for c in crossings if not c.is_preserved] == []
    (there, *_) = probes.pods(meshed.clusters["east"], "app=productpage")
    for node in west.nodes.values():
        assert ("dev clustermesh0" in node.exec(["ip", "route", "get", there.ip()]).stdout) == by_overlay


@contextmanager
def streams(meshed: Lab, west: LabCluster) -> Iterator[list[int]]:
    """Packets lost meanwhile: to a remote pod, from it, and between Calico's own nodes."""
    east = meshed.clusters["east"]
    here, neighbour = (west, pinned(west, "near")), (west, pinned(west, "far"))
    there = (east, probes.pods(east, "app=productpage")[0])
    lost: list[int] = []
    with Stream(here, there) as out, Stream(there, here) as back, Stream(here, neighbour) as own:
        yield lost
        lost += [int(str(s.end()["lost"])) for s in (out, back, own)]
