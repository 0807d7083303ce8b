"""Everything the demo shows, and what it promises about killing and removing, on the `demo` preset."""

from __future__ import annotations

import base64
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest
from clustermesh_lab import Lab
from clustermesh_lab.cluster import LabCluster

from demo import probes, scenario
from tests.e2e.services import federate
from tests.e2e.streams import Stream

PRESET = "demo"
pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

OTHER = {"east": "west", "west": "east"}


def get(cluster: LabCluster, *what: str) -> list[dict]:
    return json.loads(cluster.kubectl("get", *what, "-o", "json"))["items"]


def route_dump(cluster: LabCluster, node: str) -> list[str]:
    """Every link, route and rule of a node but the mesh's own (device, table, tunnel address on lo)."""
    tunnel = cluster.nodes[node].pod_cidrs[0].split("/")[0]
    commands = (
        ("ip", "-o", "link"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "-6", "route", "show", "table", "all"),
        ("ip", "rule"),
    )
    lines = [line for argv in commands for line in cluster.nodes[node].exec(list(argv)).stdout.splitlines()]
    own = ("clustermesh0", "lookup 4097", "table 4097", f"local {tunnel} dev lo")
    return [line for line in lines if not any(mark in line for mark in own)]


def mesh_routes(cluster: LabCluster, node: str) -> list[str]:
    return cluster.nodes[node].exec(["ip", "route", "show", "table", "4097"], check=False).stdout.splitlines()


def test_pods_reach_pods_of_the_other_cluster_and_keep_their_source(meshed: Lab):
    crossings = scenario.crossings(meshed)
    assert {(c.client.cluster, c.server.cluster) for c in crossings} == {("east", "west"), ("west", "east")}
    assert [c for c in crossings if not c.is_preserved] == []


def test_the_packets_between_the_clusters_are_vxlan_between_routed_subnets(meshed: Lab):
    east, west = meshed.clusters["east"], meshed.clusters["west"]
    (client, *_), (server, *_) = probes.pods(east, "app=productpage"), probes.pods(west, "app=reviews")
    inner = f"0x{ip_address(client.ip()):x}"  # after UDP, VXLAN and Ethernet: 42 source, 46 destination
    match = f"udp port 4790 and (udp[42:4] = {inner} or udp[46:4] = {inner})"  # the agents' probes cross there too
    argv = ["timeout", "15", "tcpdump", "-lnni", "eth0", "-T", "vxlan", "-c", "4", match]
    with ThreadPoolExecutor() as beside:  # the machine has the program, this one may not
        capture = beside.submit(east.nodes[client.node].ssh, argv)
        time.sleep(2.5)
        assert probes.source_seen(east, client, server.ip()) == client.ip()
        text = capture.result().stdout
    nodes = {east.nodes[client.node].addresses[0], west.nodes[server.node].addresses[0]}
    assert nodes <= set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)), text
    assert len({node.rsplit(".", 1)[0] for node in nodes}) == 2, "the nodes must be in different subnets"
    assert client.ip() in text
    assert server.ip() in text


def test_hosts_reach_remote_pods_with_their_tunnel_address(meshed: Lab):
    east, west = meshed.clusters["east"], meshed.clusters["west"]
    (server, *_) = probes.pods(west, "app=reviews")
    for name, node in east.nodes.items():
        seen = node.exec(["curl", "-sS", "--max-time", "5", f"http://{server.ip()}:{probes.PORT}/clientip"]).stdout
        (cidr,) = [item["spec"]["podCIDR"] for item in get(east, "nodes") if item["metadata"]["name"] == name]
        assert seen.rsplit(":", 1)[0] == cidr.split("/")[0]


@pytest.mark.parametrize("cluster", ["east", "west"])
@pytest.mark.parametrize(("service", "answering"), [("reviews", {"east", "west"}), ("ratings", {"east"})])
def test_a_federated_service_lists_and_reaches_every_backend(meshed: Lab, cluster: str, service: str, answering: set):
    assert scenario.addresses(meshed.clusters[cluster], service) == scenario.expected(meshed, service)
    counts = scenario.answers(meshed, cluster, f"{service}.{scenario.NAMESPACE}", 20)
    assert counts.total() == 20
    assert set(counts) == answering


def test_kubectl_get_endpoints_shows_the_picture_of_the_bookinfo_example(meshed: Lab):
    """Three endpoints for the federated reviews, two for reviews-23 of west, one rating for both: the seed."""
    shown = {name: endpoint_lines(cluster) for name, cluster in meshed.clusters.items()}
    reviews, ratings = scenario.expected(meshed, "reviews"), scenario.expected(meshed, "ratings")
    assert (len(reviews), len(ratings)) == (3, 1)
    assert shown["east"]["reviews"] == shown["west"]["reviews"] == reviews
    assert shown["east"]["ratings"] == shown["west"]["ratings"] == ratings
    assert shown["west"]["reviews-23"] == scenario.expected_in(meshed.clusters["west"], "reviews")
    assert shown["east"]["reviews-1"] == scenario.expected_in(meshed.clusters["east"], "reviews")


def endpoint_lines(cluster: LabCluster) -> dict[str, set[str]]:
    """Addresses by name as ``kubectl get endpoints`` prints them."""
    _, *lines = scenario.endpoints_table(cluster).splitlines()
    return {line.split()[0]: set(re.findall(r"\d+\.\d+\.\d+\.\d+", line.split()[1])) for line in lines}


def backends(lab: Lab, cluster: str, host: str, client: probes.Pod, tries: int = 16) -> set[str]:
    """Names of the pods that answer a client."""
    return set(probes.dial(lab.clusters[cluster], client, f"{host}.{scenario.NAMESPACE}", "hostname", tries))


def names_of(cluster: LabCluster) -> set[str]:
    return {pod.name for pod in probes.pods(cluster, "app=reviews")}


def test_a_headless_federated_service_resolves_to_every_endpoint_of_the_mesh(meshed: Lab):
    east = meshed.clusters["east"]
    federate(east, "reviews-headless", {"clusterIP": "None"})
    name = f"reviews-headless.{scenario.NAMESPACE}.svc.cluster.local"
    scenario.until("DNS", lambda: resolved(east, name) == scenario.expected(meshed, "reviews"), 40, 0.5)


def resolved(cluster: LabCluster, name: str) -> set[str]:
    """A records that the cluster's DNS gives for a name."""
    (dns,) = [s["spec"]["clusterIP"] for s in get(cluster, "services", "-n", "kube-system") if has_dns_port(s)]
    node = next(iter(cluster.nodes.values()))
    done = node.exec(["python3", "-c", RESOLVE, dns, name], check=False)
    return set(done.stdout.split())


def has_dns_port(service: dict) -> bool:
    return any(port["port"] == 53 and port["protocol"] == "UDP" for port in service["spec"]["ports"])


RESOLVE = """
import socket, struct, sys
server, name = sys.argv[1:]
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(3)
    asking.sendto(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1), (server, 53))
    answer = asking.recv(4096)
at, count = 12 + len(labels) + 5, struct.unpack_from(">H", answer, 6)[0]
for _ in range(count):
    while answer[at] and answer[at] < 192:
        at += answer[at] + 1
    at += 2 if answer[at] else 1
    kind, _, _, length = struct.unpack_from(">HHIH", answer, at)
    at += 10
    if kind == 1:
        print(socket.inet_ntoa(answer[at:at + length]))
    at += length
"""


def test_session_affinity_keeps_a_client_at_one_backend_of_whatever_cluster(meshed: Lab):
    east = meshed.clusters["east"]
    (client, *_) = probes.pods(east, "app=productpage")
    federate(east, "reviews-sticky", {"sessionAffinity": "ClientIP"})
    scenario.until("answer", lambda: bool(backends(meshed, "east", "reviews-sticky", client, 1)), 30)
    assert len(backends(meshed, "east", "reviews-sticky", client, 20)) == 1
    assert len(backends(meshed, "east", "reviews", client, 40)) == 3


def test_internal_traffic_policy_local_never_takes_a_remote_endpoint_for_one_of_this_node(meshed: Lab):
    east = meshed.clusters["east"]
    federate(east, "reviews-here", {"internalTrafficPolicy": "Local"})
    scenario.until("listed", lambda: scenario.addresses(east, "reviews-here") == scenario.expected(meshed, "reviews"))
    time.sleep(2)  # kube-proxy: that nothing answers must not be because nothing is programmed yet
    local = probes.pods(east, "app=reviews")
    for client in probes.pods(east, "app=productpage"):
        here = {pod.name for pod in local if pod.node == client.node}
        assert backends(meshed, "east", "reviews-here", client, 8) == here


def test_affinity_prefers_local_backends_and_falls_back_to_remote_ones(meshed: Lab):
    east = meshed.clusters["east"]
    (client, *_) = probes.pods(east, "app=productpage")
    federate(east, "reviews-near", {}, **{"clustermesh.io/affinity": "local"})
    scenario.until("near", lambda: backends(meshed, "east", "reviews-near", client) == names_of(east), 30)
    remote = names_of(meshed.clusters["west"])
    scenario.scale(meshed, "east", "reviews-v1", 0)
    scenario.until("far", lambda: backends(meshed, "east", "reviews-near", client) == remote, 60)
    scenario.scale(meshed, "east", "reviews-v1", 1)
    scenario.until(
        "near again", lambda: backends(meshed, "east", "reviews-near", client) == names_of(east) != set(), 60
    )


def test_a_remote_backend_scaled_up_and_down_is_followed(meshed: Lab):
    east = meshed.clusters["east"]
    for replicas in (3, 1):
        scenario.scale(meshed, "west", "reviews-v2", replicas)
        scenario.until("scale", lambda want=replicas + 2: len(scenario.addresses(east, "reviews")) == want, 60)


def test_status_conditions_say_what_is(meshed: Lab):
    for name, cluster in meshed.clusters.items():
        (rcc,) = get(cluster, "remoteclusterconfigurations.clustermesh.io")
        conditions = {c["type"]: c["status"] for c in rcc["status"]["conditions"]}
        assert rcc["metadata"]["name"] == OTHER[name]
        assert conditions == {"Connected": "True", "Synced": "True", "Routed": "True", "Degraded": "False"}
        assert rcc["status"]["counts"]["nodes"] == 2
        nodes = get(cluster, "meshnodes.clustermesh.io")
        assert {n["metadata"]["name"] for n in nodes} == {"n1", "n2"}
        for node in nodes:
            assert [(p["name"], p["programmedRoutes"]) for p in node["status"]["peers"]] == [(OTHER[name], 2)]


def test_killing_any_process_of_ours_loses_no_packet_of_established_traffic(meshed: Lab):
    east, west = meshed.clusters["east"], meshed.clusters["west"]
    a, b = probes.pods(east, "app=productpage")[0], probes.pods(west, "app=reviews")[0]
    with Stream((east, a), (west, b)) as there, Stream((west, b), (east, a)) as back:
        for unit in ("clustermesh-agent", "clustermesh-controller"):
            for cluster in (east, west):
                for node in cluster.nodes.values():
                    node.ssh(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", unit])
            time.sleep(2)
            for cluster in (east, west):
                for node in cluster.nodes.values():
                    node.ssh(["systemctl", "restart", unit])
        time.sleep(1)
        results = there.end(), back.end()
    assert [r["lost"] for r in results] == [0, 0], results
    assert [r["sources"] for r in results] == [[a.ip()], [b.ip()]]
    assert min(r["sent"] for r in results) > 3000
    scenario.until("mesh is whole again", lambda: scenario.federated(meshed) >= 0, 60)


def test_deleting_a_remote_cluster_configuration_removes_what_is_its_and_nothing_else(meshed: Lab):
    east = meshed.clusters["east"]
    before = {node: route_dump(east, node) for node in east.nodes}
    services = {s["metadata"]["uid"]: s["metadata"]["resourceVersion"] for s in get(east, "services", "-A")}
    own = scenario.expected_in(east, "reviews")
    east.kubectl("delete", "remoteclusterconfigurations.clustermesh.io", "west")
    took = scenario.until("objects of the peer are gone", lambda: get(east, "remotenodes.clustermesh.io") == [], 10)
    scenario.until("its routes are gone", lambda: not any(mesh_routes(east, n) for n in east.nodes), 10)
    scenario.until("its endpoints are gone", lambda: scenario.addresses(east, "reviews") == own, 10)
    assert took < 5
    assert {node: route_dump(east, node) for node in east.nodes} == before
    assert {s["metadata"]["uid"]: s["metadata"]["resourceVersion"] for s in get(east, "services", "-A")} == services
    assert [c for c in scenario.crossings(meshed) if c.source in c.client.ips] == [], "one direction has no way back"
    scenario.playbook(meshed, "mesh.yml", "--tags", "peering,validate")
    scenario.federated(meshed)
    assert all(c.is_preserved for c in scenario.crossings(meshed))


def test_the_documented_kubectl_procedure_by_hand_gives_the_same_mesh(meshed: Lab):
    specs = {name: _remote_specs(cluster) for name, cluster in meshed.clusters.items()}
    access = "remote-cluster-secret-access"
    for name, cluster in meshed.clusters.items():
        cluster.kubectl("delete", "remoteclusterconfigurations.clustermesh.io", "--all")
        made = (f"secret/mesh-access-{OTHER[name]}", f"role/{access}", f"rolebinding/{access}")
        cluster.kubectl("-n", "clustermesh-system", "delete", *made)
    for name, cluster in meshed.clusters.items():
        scenario.until("cleared", lambda c=cluster: get(c, "remotenodes.clustermesh.io") == [], 20)
        kubeconfig = _kubeconfig_by_hand(meshed.clusters[OTHER[name]])
        _peer_by_hand(cluster, OTHER[name], kubeconfig)
    scenario.federated(meshed)
    assert {name: _remote_specs(cluster) for name, cluster in meshed.clusters.items()} == specs
    scenario.until("routes", lambda: all(c.is_preserved for c in scenario.crossings(meshed)), 30)


def _remote_specs(cluster: LabCluster) -> dict[str, dict]:
    return {item["metadata"]["name"]: item["spec"] for item in get(cluster, "remotenodes.clustermesh.io")}


def _kubeconfig_by_hand(cluster: LabCluster) -> str:
    """The kubeconfig of the seeds: a token Secret of the ServiceAccount, the CA and the server of the admin's own."""
    secret = "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata:\n  name: by-hand\n"
    secret += (
        "  namespace: clustermesh-system\n  annotations: {kubernetes.io/service-account.name: clustermesh-remote}\n"
    )
    cluster.kubectl("apply", "-f", "-", stdin=secret)
    read = ("-n", "clustermesh-system", "get", "secret", "by-hand", "-o", "jsonpath={.data.token}")
    scenario.until("the token is there", lambda: cluster.kubectl(*read) != "", 10)
    token = base64.b64decode(cluster.kubectl(*read)).decode()
    view = json.loads(cluster.kubectl("config", "view", "--flatten", "--minify", "--raw", "-o", "json"))
    name = "tigera-federation-remote-cluster"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "users": [{"name": name, "user": {"token": token}}],
        "clusters": [{"name": name, "cluster": view["clusters"][0]["cluster"]}],
        "contexts": [{"name": f"{name}-ctx", "context": {"cluster": name, "user": name}}],
        "current-context": f"{name}-ctx",
    }
    return json.dumps(document)


def _peer_by_hand(cluster: LabCluster, peer: str, kubeconfig: str) -> None:
    namespace, secret = "clustermesh-system", f"by-hand-{peer}"
    cluster.kubectl(
        "apply",
        "-f",
        "-",
        stdin=json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": secret, "namespace": namespace},
                "stringData": {"datastoreType": "kubernetes", "kubeconfig": kubeconfig},
            }
        ),
    )
    access = "remote-cluster-secret-access-by-hand"
    cluster.kubectl("-n", namespace, "create", "role", access, "--verb=get,list,watch", "--resource=secrets")
    cluster.kubectl(
        "-n",
        namespace,
        "create",
        "rolebinding",
        access,
        f"--role={access}",
        f"--serviceaccount={namespace}:clustermesh-controller",
    )
    cluster.kubectl(
        "apply",
        "-f",
        "-",
        stdin=json.dumps(
            {
                "apiVersion": "clustermesh.io/v1alpha1",
                "kind": "RemoteClusterConfiguration",
                "metadata": {"name": peer},
                "spec": {
                    "clusterAccessSecret": {"name": secret, "namespace": namespace, "kind": "Secret"},
                    "syncOptions": {"overlayRoutingMode": "Enabled"},
                },
            }
        ),
    )
