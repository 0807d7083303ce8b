"""What a node is made of: its disk, its credentials, its configuration and the programs that run in it.

Everything is written from outside before the node starts, so that process 1 inside only mounts and supervises. The
disk stays when a node is powered off and on, as a real one would.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import sysconfig
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import calico, containerd
from .arguments import CLUSTER_DOMAIN
from .build import program
from .cgroups import Group
from .cni import PLUGINS
from .errors import LabError
from .images import base_images
from .network import FORWARD_SYSCTLS, MTU
from .places import private_dir, private_file
from .process import ProcessId, spawn_detached

if TYPE_CHECKING:
    from .pki import Authority
    from .topology import Cluster

ENTER_S = 60
OPAQUE = "trusted.overlay.opaque"  # of an overlay's directory: the machine's own content does not show through
PROGRAMS = ("containerd", "runc", "kubelet", "kube-proxy")
SEARCH_PATH = "/opt/lab/containerd:/opt/lab/runc:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KUBERNETES = "/etc/kubernetes"
SYSCTLS = FORWARD_SYSCTLS | {"net/bridge/bridge-nf-call-iptables": "1", "net/bridge/bridge-nf-call-ip6tables": "1"}
# The kubelet sets these for the whole machine. It is shown files that already hold what it wants.
KUBELET_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node, as values."""

    lab: str
    cluster: Cluster
    name: str
    addresses: tuple[str, ...]
    api_url: str
    netns: Path
    disk: Path
    control: Path
    log: Path

    @property
    def group(self) -> Group:
        """The node's control group."""
        return Group(f"clustermesh-lab/{self.lab}/{self.cluster.name}.{self.name}")

    @property
    def outer_group(self) -> Group:
        """That of the one process which stays outside and waits for process 1."""
        return Group(f"{self.group.path}.outer")


def prepare_disk(spec: NodeSpec, authority: Authority) -> None:
    """Write everything the node needs; what is there already stays."""
    disk = private_dir(spec.disk)
    for folder in ("etc/cni/net.d", "etc/containerd", "etc/kubernetes", "etc-work", "root", "var/lib", "var/log"):
        (disk / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("root", "etc", "var", "var/lib", "var/log", "etc/cni", "etc/cni/net.d"):
        (disk / folder).chmod(0o755)
    for folder in ("etc/cni", "etc/containerd", "etc/kubernetes"):
        os.setxattr(disk / folder, OPAQUE, b"y")
    etc = disk / "etc"
    (etc / "hostname").write_text(f"{spec.name}\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {spec.name}\n" for a in spec.addresses))
    if not (etc / "machine-id").exists():
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    runtime = containerd.config(runc=" ".join(_inside("runc")), cni=_cni_directories(spec))
    (etc / "containerd/config.toml").write_text(runtime)
    _write_credentials(spec, authority, etc / "kubernetes")
    (etc / "kubernetes/kubelet.json").write_text(json.dumps(_kubelet_config(spec), indent=1))
    (etc / "kubernetes/resolv.conf").write_text("# no name server outside the lab\n")
    if not (disk / "var/lib/containerd").exists():
        beside = disk / "var/lib/.containerd"
        shutil.rmtree(beside, ignore_errors=True)
        containerd.populate(containerd.template(base_images()), beside)
        beside.rename(disk / "var/lib/containerd")


def _write_credentials(spec: NodeSpec, authority: Authority, folder: Path) -> None:
    """Copies of what the node may hold; the authority's own key is not among it."""
    label, context = f"{spec.cluster.name}-{spec.name}", spec.cluster.name
    own = calico.ACCOUNTS_OF_NODE if spec.cluster.cni == calico.COMPONENT else ()
    for account in own:
        source = calico.credentials(authority, account, spec.api_url, context)
        for suffix in (".kubeconfig", ".crt", ".key"):
            private_file(folder / f"{account}{suffix}", source.with_suffix(suffix).read_bytes())
    user = f"system:node:{spec.name}"
    serving = authority.issue(f"kubelet-{label}", user, ["system:nodes"], [spec.name, *spec.addresses])
    podnet = authority.issue("podnet", "clustermesh-lab:podnet")
    files = {
        "kubelet.kubeconfig": authority.kubeconfig(label, spec.api_url, user, ["system:nodes"], context=context),
        "kube-proxy.kubeconfig": authority.kubeconfig("proxy", spec.api_url, "system:kube-proxy", context=context),
        "ca.crt": authority.certificate_file,
        "kubelet.crt": serving[0],
        "kubelet.key": serving[1],
        "podnet.crt": podnet[0],
        "podnet.key": podnet[1],
    }
    for name, source in files.items():
        private_file(folder / name, source.read_bytes())


def _kubelet_config(spec: NodeSpec) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "address": "::" if ":" in spec.addresses[0] or len(spec.addresses) > 1 else spec.addresses[0],
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{KUBERNETES}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{KUBERNETES}/kubelet.crt",
        "tlsPrivateKeyFile": f"{KUBERNETES}/kubelet.key",
        "clusterDomain": CLUSTER_DOMAIN,
        "clusterDNS": list(spec.cluster.service_address(10)),
        "resolvConf": f"{KUBERNETES}/resolv.conf",
        "failSwapOn": False,
        "staticPodPath": f"{KUBERNETES}/manifests",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "syncFrequency": "10s",
    }


def components(spec: NodeSpec) -> list[dict[str, Any]]:
    """The programs of a node, for its supervisor."""
    flags = {
        "config": f"{KUBERNETES}/kubelet.json",
        "kubeconfig": f"{KUBERNETES}/kubelet.kubeconfig",
        "hostname-override": spec.name,
        "node-ip": ",".join(spec.addresses),
        "root-dir": "/var/lib/kubelet",
        "cert-dir": "/var/lib/kubelet/pki",
        **spec.cluster.flags.get("kubelet", {}),
    }
    line = shlex.join([*_inside("kubelet"), *(f"--{k}={v}" for k, v in flags.items() if v)])
    # A mount namespace of its own, in which volume mounts still reach containerd's, and /proc/sys is partly replaced.
    shadow = ["mount --make-rprivate /proc", "mkdir -p /run/lab-sysctl"]
    for number, (name, value) in enumerate(KUBELET_SYSCTLS.items()):
        file = f"/run/lab-sysctl/{number}"
        shadow.append(f"echo {value} > {file}; mount --bind {file} /proc/sys/{name}")
    script = "\n".join([*shadow, f"exec {line}"])
    found: list[dict[str, Any]] = [
        {"name": "containerd", "argv": _inside("containerd")},
        {
            "name": "kubelet",
            "argv": ["unshare", "-m", "--propagation", "unchanged", "sh", "-c", script],
            "wait_for": "/run/containerd/containerd.sock",
        },
    ]
    if spec.cluster.proxy != "none":
        found.append({"name": "kube-proxy", "argv": _kube_proxy(spec)})
    if spec.cluster.cni == calico.COMPONENT:
        argv = [sys.executable, "-m", "clustermesh_lab.inside.calico", f"{KUBERNETES}/calico.json"]
        found += calico.node_components(spec.cluster, spec.name, argv, _inside("calico-node"))
    if PLUGINS[spec.cluster.cni].LAB_ROUTES:
        argv = [sys.executable, "-m", "clustermesh_lab.inside.podnet", f"{KUBERNETES}/podnet.json"]
        found.append({"name": "podnet", "argv": argv})
    return found


def _kube_proxy(spec: NodeSpec) -> list[str]:
    flags = {
        "kubeconfig": f"{KUBERNETES}/kube-proxy.kubeconfig",
        "proxy-mode": spec.cluster.proxy,
        "hostname-override": spec.name,
        "cluster-cidr": ",".join(spec.cluster.pods),
        "conntrack-max-per-core": "0",
        "conntrack-tcp-timeout-established": "0s",
        "conntrack-tcp-timeout-close-wait": "0s",
        **spec.cluster.flags.get("kube-proxy", {}),
    }
    return [*_inside("kube-proxy"), *(f"--{k}={v}" for k, v in flags.items() if v)]


def podnet_spec(cluster: Cluster, api_url: str, node: str, folder: str) -> dict[str, Any]:
    """What inside/podnet.py is told; an empty node name: routes only."""
    return {
        "url": api_url,
        "ca": f"{folder}/ca.crt",
        "certificate": f"{folder}/podnet.crt",
        "key": f"{folder}/podnet.key",
        "node": node,
        "cni": cluster.cni,
        "pods": list(cluster.pods),
        "mtu": MTU,
    }


def _calico_spec(spec: NodeSpec) -> dict[str, Any]:
    """What inside/calico.py is told."""
    return {
        "url": spec.api_url,
        "ca": f"{KUBERNETES}/ca.crt",
        "certificate": f"{KUBERNETES}/calico-node.crt",
        "key": f"{KUBERNETES}/calico-node.key",
        "node": spec.name,
        "pool": calico.node_pool(spec.cluster, spec.name),
        "calico_node": _inside("calico-node"),
        "started": calico.STARTED,
    }


def power_on(spec: NodeSpec) -> ProcessId:
    """Start the node; the id of its process 1, as the machine sees it."""
    shutil.rmtree(spec.control, ignore_errors=True)
    private_dir(spec.control)
    etc = spec.disk / "etc/kubernetes"
    podnet = podnet_spec(spec.cluster, spec.api_url, spec.name, KUBERNETES)
    private_file(etc / "podnet.json", json.dumps(podnet))
    if spec.cluster.cni == calico.COMPONENT:
        private_file(etc / "calico.json", json.dumps(_calico_spec(spec)))
    told = {
        "hostname": spec.name,
        "disk": str(spec.disk),
        "control": "/run/lab",
        "logs": "/var/log",
        "binds": _binds(spec),
        "sysctls": SYSCTLS,
        "path": SEARCH_PATH,
        "cgroups": [str(f) for f in spec.group.create()],
        "components": components(spec),
    }
    line = ["unshare", "-m", "-u", "-p", "-f", "--propagation", "private", sys.executable]
    outer = spawn_detached(
        [*line, "-m", "clustermesh_lab.inside.init"],
        log=spec.log,
        netns=spec.netns,
        stdin=json.dumps(told).encode(),
        cgroup_files=spec.outer_group.create(),
    )
    deadline = time.monotonic() + ENTER_S
    while not (spec.control / "entered").exists():
        if not outer.is_alive() or time.monotonic() > deadline:
            words = spec.log.read_text(errors="replace").splitlines()[-5:]
            raise LabError(
                f"node {spec.cluster.name}/{spec.name} did not start: {' | '.join(words)}", do=str(spec.log)
            )
        time.sleep(0.02)
    init = _init_of(spec.group, outer.pid)
    init.write(spec.control / "init.pid")
    return init


def _init_of(group: Group, parent: int) -> ProcessId:
    for process in group.processes():
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            continue
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if status["PPid"] == str(parent) and status["NSpid"].split()[-1] == "1":
            return process
    raise LabError(f"process 1 of {group.path} is gone")


def _inside(name: str) -> list[str]:
    """How a program is started inside a node. Whole directories are bound, not files: runc protects its own program
    by an overlay over its directory, and an overlay does not see what is mounted in there."""
    path, *rest = program(name)
    return [f"/opt/lab/{name}/{Path(path).name}", *rest]


def _cni_directories(spec: NodeSpec) -> list[str]:
    """Where the node's CNI plug-ins are."""
    own = [str(Path(_inside("calico-node")[0]).parent)] if spec.cluster.cni == calico.COMPONENT else []
    return [*own, "/opt/cni/bin"]


def _binds(spec: NodeSpec) -> list[tuple[str, str]]:
    """Directories of the machine that a node needs although their parents are the node's own."""
    found = [
        (str(Path(program("ptp")[0]).parent), "/opt/cni/bin"),
        (str(spec.control), "/run/lab"),
        *((str(Path(program(name)[0]).parent), f"/opt/lab/{name}") for name in PROGRAMS),
    ]
    if spec.cluster.cni == calico.COMPONENT:
        found.append((str(Path(program("calico-node")[0]).parent), "/opt/lab/calico-node"))
    package = Path(__file__).parent.parent
    needed = {sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), str(package)}
    return found + [(path, path) for path in needed if path.split("/")[1] in ("run", "tmp", "etc", "var", "opt")]
