"""Whole labs: pods, Services, DNS, faults, and nothing left afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml
from clustermesh_lab import Lab, LabError, Topology, images, inventory
from clustermesh_lab.lab import down
from clustermesh_lab.places import DISKS, RUN
from clustermesh_lab.process import start_time

pytestmark = pytest.mark.lab

NAME = f"test-{os.getpid()}"
PODS = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {image}
    args: [netexec, --http-port=8080]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"""


def until(claim, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not (value := claim()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)
    return value


def traces(name: str, index: int) -> dict[str, list[str]]:
    """Everything on this machine that carries the lab's name or number, by kind."""
    commands = {
        "links": ["ip", "-o", "link"],
        "routes": ["ip", "route", "show", "table", "all"],
        "routes of IPv6": ["ip", "-6", "route", "show", "table", "all"],
        "mounts": ["cat", "/proc/self/mountinfo"],
        "namespaces": ["ls", "-1", "/run/netns"],
        "control groups": ["find", "/sys/fs/cgroup", "-type", "d"],
        "files": ["find", str(RUN), str(DISKS), "/run/systemd/nspawn", "-maxdepth", "2"],
    }
    tokens = (name, f"cml{index}", f"10.{128 + index}.", f"fd00:{128 + index:x}:")
    found = {}
    for kind, line in commands.items():
        text = subprocess.run(line, capture_output=True, text=True, errors="replace", check=False).stdout
        found[kind] = [entry for entry in text.splitlines() if any(t in entry for t in tokens)]
    live = [p.parent for p in Path("/proc").glob("[0-9]*/stat") if start_time(int(p.parent.name)) is not None]
    texts = [_read(p / "cgroup") + _read(p / "cmdline") for p in live]
    found["processes"] = [text for text in texts if any(t in text for t in tokens)]
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def lab():
    running = Lab.up(Topology.preset("demo"), machines=True, name=NAME)
    for cluster in running.clusters.values():
        for node in cluster.nodes:
            text = PODS.format(name=f"web-{node}", node=node, image=images.agnhost_image())
            cluster.kubectl("apply", "-f", "-", stdin=text)
    for cluster in running.clusters.values():
        cluster.kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=90s")
    yield running
    running.down()


def curl(cluster, pod, url):
    return cluster.kubectl("exec", pod, "--", "curl", "-sSk", "-m", "5", url)


def pod_ip(cluster, pod):
    return cluster.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}")


def test_pods_reach_pods_of_other_nodes_with_their_own_address(lab):
    east = lab.clusters["east"]
    answer = curl(east, "web-n1", f"http://{pod_ip(east, 'web-n2')}:8080/clientip")
    assert answer.rpartition(":")[0] == pod_ip(east, "web-n1")


def test_pods_reach_services_by_name(lab):
    west = lab.clusters["west"]
    name = "http://web-n2.default.svc.cluster.local/hostname"
    assert until(lambda: _quietly(lambda: curl(west, "web-n1", name))) == "web-n2"


def test_pods_reach_the_api_server_by_service_address_and_name(lab):
    east = lab.clusters["east"]
    address = east.spec.service_address(1)[0]
    assert '"gitVersion"' in curl(east, "web-n1", f"https://{address}/version")
    assert '"gitVersion"' in curl(east, "web-n1", "https://kubernetes.default/version")


def _quietly(call):
    try:
        return call()
    except LabError:
        return None


def test_pods_leave_their_cluster_under_the_address_of_their_node(lab):
    east, west = lab.clusters["east"], lab.clusters["west"]
    node = west.nodes["n1"]
    program = "import socket; s = socket.create_server(('', 7777)); print(s.accept()[1][0])"
    server = subprocess.Popen(node.enter_command(["python3", "-c", program]), stdout=subprocess.PIPE, text=True)
    until(lambda: ":7777" in node.exec(["ss", "-ltn"]).stdout)
    with pytest.raises(LabError):
        curl(east, "web-n1", f"http://{node.address}:7777/")
    assert server.communicate(timeout=10)[0].strip() == east.nodes["n1"].address


def test_clusters_do_not_reach_each_other_s_pods_by_themselves(lab):
    with pytest.raises(LabError):
        curl(lab.clusters["east"], "web-n1", f"http://{pod_ip(lab.clusters['west'], 'web-n1')}:8080/")


def test_names_and_pod_cidrs_of_nodes_are_known(lab):
    east, nodes = lab.clusters["east"], lab.clusters["east"].nodes
    cidrs = {name: ip_network(node.pod_cidrs[0]) for name, node in nodes.items()}  # which ones is kube's own choice
    assert [(c.prefixlen, c.subnet_of(ip_network(east.pod_cidrs[0]))) for c in cidrs.values()] == [(24, True)] * 2
    where = {name: [n for n, c in cidrs.items() if ip_address(pod_ip(east, f"web-{name}")) in c] for name in nodes}
    assert where == {"n1": ["n1"], "n2": ["n2"]}
    assert nodes["n1"].exec(["hostname"]).stdout.strip() == "n1"
    assert Path(f"/run/netns/{nodes['n1'].netns}").exists()


def test_a_machine_is_the_node_s_own_network(lab):
    node = lab.clusters["west"].nodes["n2"]
    assert node.ssh(["hostname"]).stdout.strip() == "n2"
    node.ssh(["ip", "link", "add", "seen0", "type", "bridge"])
    assert "seen0" in node.exec(["ip", "link"]).stdout
    node.ssh(["ip", "link", "del", "seen0"])
    node.ssh(["sysctl", "-w", "net.ipv4.conf.eth0.arp_notify=1"])
    assert node.exec(["sysctl", "-n", "net.ipv4.conf.eth0.arp_notify"]).stdout.strip() == "1"


def test_ansible_reaches_every_machine_by_the_inventory(lab, tmp_path):
    file = tmp_path / "inventory.yml"
    file.write_text(inventory.text(lab))
    ansible = Path(sys.executable).parent / "ansible"
    line = [str(ansible), "-i", str(file), "mesh_nodes", "-m", "ansible.builtin.ping", "-o"]
    env = os.environ | {"ANSIBLE_HOST_KEY_CHECKING": "true", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    assert done.stdout.count("SUCCESS") == 4, done.stdout + done.stderr


def test_status_and_up_again_change_nothing(lab):
    before = lab.status()
    again = Lab.up(Topology.preset("demo"), machines=True, name=NAME)
    assert again.status() == before
    with pytest.raises(LabError, match="runs another topology"):
        Lab.up(Topology.preset("tiny"), name=NAME)


def test_an_own_image_runs_without_a_registry(lab, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "pause").write_bytes(Path(images.program("pause")[0]).read_bytes())
    (root / "pause").chmod(0o755)
    archive = images.write_image(tmp_path / "x.tar", "lab.local/mine:1", root, images.Settings(("/pause",)))
    lab.load_image(archive)
    east = lab.clusters["east"]
    east.kubectl("run", "mine", "--image=lab.local/mine:1", "--image-pull-policy=Never")
    east.kubectl("wait", "pod/mine", "--for=condition=Ready", "--timeout=60s")
    east.kubectl("delete", "pod", "mine", "--now")


def test_a_killed_kubelet_comes_back(lab):
    node = lab.clusters["east"].nodes["n1"]
    before = (node.control / "kubelet.pid").read_text()
    lab.fault.kill("east/n1", "kubelet")
    until(lambda: (node.control / "kubelet.pid").exists() and (node.control / "kubelet.pid").read_text() != before)
    assert curl(lab.clusters["east"], "web-n2", f"http://{pod_ip(lab.clusters['east'], 'web-n1')}:8080/hostname")
    until(node.is_ready)


def test_a_stopped_component_stays_down_until_resumed(lab):
    lab.fault.stop("west", "kube-apiserver")
    lab.fault.stop("west", "kube-apiserver")
    assert not lab.clusters["west"].api.is_ready()
    lab.fault.resume("west", "kube-apiserver")
    lab.clusters["west"].wait_api()
    with pytest.raises(LabError, match="has no component 'x': there are etcd"):
        lab.fault.stop("west", "x")


def ping(node, address, count=1):
    return node.exec(["ping", "-q", "-c", str(count), "-i", "0.2", "-W", "1", address], check=False)


def test_network_faults_are_made_and_undone(lab):
    node, other = lab.clusters["east"].nodes["n1"], lab.clusters["west"].nodes["n1"]
    for make, undo in (
        (lambda: lab.fault.drop("east", "west"), lambda: lab.fault.allow("west", "east")),
        (lambda: lab.fault.cut("west/n1"), lambda: lab.fault.mend("west/n1")),
    ):
        for _ in range(2):
            make()
        assert ping(node, other.address).returncode != 0
        for _ in range(2):
            undo()
        assert ping(node, other.address).returncode == 0


def test_a_delayed_link_is_slow_in_both_directions_and_carries_large_transfers(lab):
    node, other = lab.clusters["east"].nodes["n1"], lab.clusters["west"].nodes["n1"]
    lab.fault.delay("east/n1", 40)
    answer = ping(node, other.address, 3).stdout
    assert 80 <= float(answer.rpartition("=")[2].split("/")[1]) < 110
    body = node.ssh(["head", "-c", "3000000", "/dev/zero"], timeout_s=30).stdout
    assert len(body) == 3_000_000
    lab.fault.mend("east/n1")
    assert float(ping(node, other.address, 3).stdout.rpartition("=")[2].split("/")[1]) < 20


def test_a_node_without_power_comes_back_with_its_disks(lab):
    east = lab.clusters["east"]
    node = east.nodes["n2"]
    node.ssh(["touch", "/root/kept"])
    for _ in range(2):
        lab.fault.off("east/n2")
    assert not node.is_on()
    assert ping(east.nodes["n1"], node.address).returncode != 0
    with pytest.raises(LabError, match="is off"):
        node.exec(["true"])
    for _ in range(2):
        lab.fault.on("east/n2")
    node.machine.wait_ssh()
    node.ssh(["test", "-e", "/root/kept"])
    until(lambda: _quietly(lambda: curl(east, "web-n1", f"http://{pod_ip(east, 'web-n2')}:8080/hostname")))


def test_credentials_are_private(lab):
    assert RUN.stat().st_mode & 0o777 == 0o700
    assert DISKS.stat().st_mode & 0o777 == 0o700
    for pattern in ("pki/**/*.key", "pki/**/*.kubeconfig", "ssh/id_ed25519"):
        files = list((RUN / NAME).glob(pattern))
        assert files
        assert {f.stat().st_mode & 0o777 for f in files} == {0o600}


def test_no_node_holds_the_key_of_its_cluster_s_authority(lab):
    keys = {f.read_bytes() for f in (RUN / NAME / "pki").glob("*/ca.key")}
    assert len(keys) == 2
    for folder in (DISKS / NAME).glob("*/n*/etc/kubernetes"):
        assert not keys & {f.read_bytes() for f in folder.iterdir() if f.is_file()}


def test_it_leaves_nothing_and_was_everywhere_before():
    name = f"{NAME}-b"
    lab = Lab.up(Topology.preset("tiny"), machines=True, name=name)
    index = lab.index
    during = traces(name, index)
    assert all(during.values()), {kind for kind, found in during.items() if not found}
    assert down(name)
    assert {k: v for k, v in traces(name, index).items() if v} == {}
    assert not down(name)


@pytest.mark.parametrize("at", ["control plane of", "0.0s"])
def test_what_a_killed_start_left_is_taken_away(at):
    name = f"{NAME}-c"
    line = [sys.executable, "-m", "clustermesh_lab.cli", "--lab", name, "up", "tiny", "--machines"]
    command = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    record = RUN / name / "lab.json"
    if at == "0.0s":
        until(record.exists)
    else:
        until(lambda: at in command.stderr.readline())
    command.send_signal(signal.SIGKILL)
    command.wait()
    command.stderr.close()
    index = json.loads(record.read_text())["index"]
    assert down(name)
    assert {k: v for k, v in traces(name, index).items() if v} == {}


def test_the_next_start_takes_over_from_a_killed_one(tmp_path):
    name = f"{NAME}-d"
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump({"clusters": {"solo": {"nodes": 1}}}))
    command = subprocess.Popen(
        [sys.executable, "-m", "clustermesh_lab.cli", "-q", "--lab", name, "up", str(file)], stdout=subprocess.DEVNULL
    )
    until((RUN / name / "control/solo/etcd.pid").exists)
    command.send_signal(signal.SIGKILL)
    command.wait()
    lab = Lab.up(Topology.load(file), name=name)
    assert lab.clusters["solo"].nodes["n1"].is_ready()
    lab.down()


@pytest.mark.parametrize("preset", ["v6", "dual"])
def test_other_families_work_alike(preset):
    lab = Lab.up(Topology.preset(preset), name=f"{NAME}-f")
    try:
        for cluster in lab.clusters.values():
            text = "".join(
                PODS.format(name=f"web-{n}", node=n, image=images.agnhost_image()) + "---" for n in cluster.nodes
            )
            cluster.kubectl("apply", "-f", "-", stdin=text)
            cluster.kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s")
            found = json.loads(cluster.kubectl("get", "pod", "web-n2", "-o", "json"))["status"]["podIPs"]
            assert len(found) == len(cluster.spec.families)
            for entry in found:
                host = f"[{entry['ip']}]" if ":" in entry["ip"] else entry["ip"]
                assert curl(cluster, "web-n1", f"http://{host}:8080/hostname") == "web-n2"
            assert until(lambda c=cluster: _quietly(lambda: curl(c, "web-n1", "http://web-n2.default/hostname")))
    finally:
        lab.down()


def test_a_cluster_without_a_pod_network_waits_for_one(tmp_path):
    file = tmp_path / "bare.yaml"
    file.write_text(yaml.safe_dump({"clusters": {"bare": {"nodes": 1, "cni": "none", "proxy": "none"}}}))
    lab = Lab.up(Topology.load(file), name=f"{NAME}-n")
    try:
        node = lab.clusters["bare"].nodes["n1"]
        assert not node.is_ready()
        assert sorted(f.stem for f in node.logs.glob("*.log")) == ["containerd", "kubelet"]
    finally:
        lab.down()


def test_calico_routes_between_nodes_without_an_overlay_and_with_blocks_of_its_own_choice():
    options = {"encapsulation": "None", "ipam": "calico"}
    solo = {"nodes": 2, "cni": "calico", "calico": options, "dns": False}
    lab = Lab.up(Topology.parse({"clusters": {"solo": solo}}), name=f"{NAME}-g")
    try:
        cluster = lab.clusters["solo"]
        for node in cluster.nodes:
            text = PODS.format(name=f"web-{node}", node=node, image=images.agnhost_image())
            cluster.kubectl("apply", "-f", "-", stdin=text)
        cluster.kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s")
        address = pod_ip(cluster, "web-n2")
        answer = curl(cluster, "web-n1", f"http://{address}:8080/clientip")
        assert answer.rpartition(":")[0] == pod_ip(cluster, "web-n1")
        way = cluster.nodes["n1"].exec(["ip", "route", "get", address]).stdout
        assert f"via {cluster.nodes['n2'].address} dev eth0" in way
        (pool,) = json.loads(cluster.kubectl("get", "ippools.crd.projectcalico.org", "-o", "json"))["items"]
        assert (pool["spec"]["cidr"], pool["spec"]["natOutgoing"]) == (cluster.pod_cidrs[0], True)
    finally:
        lab.down()
