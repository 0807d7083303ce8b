"""A running cluster and its nodes, as tests and commands hold them.

Objects here are handles: everything they know is derived from the lab's record and its files, so a handle made by
another process, or after a crash, is as good as the one `Lab.up` returned.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import addons, arguments, calico
from . import node as nodes
from .build import program
from .cgroups import Group
from .cni import PLUGINS
from .command import run
from .errors import LabError
from .kubeapi import UNREACHABLE, Api, ApiError
from .machine import LabMachine, SshKeys
from .network import LabNetwork, control_plane_place, node_place
from .pki import Authority
from .places import private_dir, private_file
from .process import ProcessId, joining, spawn_detached
from .progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .state import Store
    from .topology import Cluster

API_PORT = 6443
API_READY_S = 180


@dataclass(frozen=True, slots=True)
class Context:
    """What every handle of one lab shares."""

    store: Store
    index: int
    network: LabNetwork
    keys: SshKeys
    machines: bool = False


class LabNode:
    """One node of a running lab."""

    def __init__(self, context: Context, cluster: LabCluster, name: str) -> None:
        self.name = name
        self.cluster = cluster
        self.place = node_place(cluster.spec, name, context.index)
        self.addresses = self.place.addresses
        self.netns = context.network.name(self.place.label)
        self.netns_path = context.network.path(self.place.label)
        self._context = context
        disk = context.store.disks / cluster.name / name
        self.spec = nodes.NodeSpec(
            lab=context.store.name,
            cluster=cluster.spec,
            name=name,
            addresses=self.addresses,
            api_url=cluster.plan.url,
            netns=self.netns_path,
            disk=disk,
            control=context.store.run / "control" / self.place.label,
            log=context.store.run / f"{self.place.label}.log",
        )

    @property
    def machine(self) -> LabMachine:
        """The node as a machine; LabError when the lab has none."""
        if not self._context.machines:
            raise LabError("this lab has no machines", do="lab up --machines")
        return LabMachine(self.spec, self._context.keys, f"{self.netns}".replace(".", "-"))

    @property
    def address(self) -> str:
        """Its first address on the cluster's subnet (the node's InternalIP)."""
        return self.addresses[0]

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """The pod CIDRs the controller manager gave it; empty before."""
        try:
            return tuple(self.cluster.api.get(f"/api/v1/nodes/{self.name}")["spec"].get("podCIDRs", ()))
        except ApiError:
            return ()

    @property
    def logs(self) -> Path:
        """Directory with COMPONENT.log of each of its programs."""
        return self.spec.disk / "var/log"

    @property
    def control(self) -> Path:
        """Directory of its supervisor."""
        return self.spec.control

    @property
    def group(self) -> Group:
        """Its control group."""
        return self.spec.group

    def init(self) -> ProcessId | None:
        """Its process 1; None when it is powered off."""
        return ProcessId.read(self.spec.control / "init.pid")

    def is_on(self) -> bool:
        """Whether it is powered on."""
        return self.init() is not None

    def enter_command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the node."""
        init = self.init()
        if init is None:
            raise LabError(
                f"node {self.cluster.name}/{self.name} is off", do=f"lab fault on {self.cluster.name}/{self.name}"
            )
        env = ["env", f"PATH={nodes.SEARCH_PATH}", "CONTAINERD_NAMESPACE=k8s.io"]
        line = ["nsenter", "-t", str(init.pid), "-n", "-m", "-p", "-u", "-C", *env, *argv]
        return joining(self.group.create(), line)

    def exec(
        self, argv: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside the node (its network, files and processes; `ctr` speaks to its containerd)."""
        line = self.enter_command(argv)
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=timeout_s)
        if check and done.returncode:
            words = (done.stderr or done.stdout).strip()
            raise LabError(f"`{' '.join(argv)}` on {self.cluster.name}/{self.name}: status {done.returncode}: {words}")
        return done

    def ssh(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the node's machine by ssh, as root."""
        line = self.machine.ssh_command([shlex.join(argv)])
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
        if check and done.returncode:
            raise LabError(f"`{shlex.join(argv)}` on {self.cluster.name}/{self.name}: {done.stderr.strip()}")
        return done

    def load_image(self, archive: Path) -> None:
        """Import an image archive into its containerd."""
        with archive.open("rb") as file:
            line = self.enter_command(["ctr", "images", "import", "-"])
            done = subprocess.run(line, stdin=file, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise LabError(f"{archive} was not imported on {self.cluster.name}/{self.name}: {done.stderr.strip()}")

    def power_on(self) -> None:
        """Boot it, and its machine; its disks are as they were left."""
        if self.is_on() and (not self._context.machines or self.machine.is_on()):
            return
        self._boot()
        if self._context.machines:
            self.machine.start()

    def _boot(self) -> None:
        if self.is_on():
            return
        if not self.netns_path.is_mount():
            self._context.network.attach(self.cluster.spec, self.place)
        nodes.prepare_disk(self.spec, self.cluster.authority)
        nodes.power_on(self.spec)

    def power_off(self) -> None:
        """Cut its power: every process at once, then its network."""
        if self._context.machines:
            self.machine.stop()
        init = self.init()
        if init:
            init.send(9)
        left = [*self.group.kill(), *self.spec.outer_group.kill()]
        if left:
            raise LabError(f"processes of {self.cluster.name}/{self.name} cannot be killed: {[p.pid for p in left]}")
        self._context.network.detach(self.place)
        self.group.remove()
        self.spec.outer_group.remove()

    def is_ready(self) -> bool:
        """Whether the API server calls it Ready."""
        try:
            conditions = self.cluster.api.get(f"/api/v1/nodes/{self.name}")["status"].get("conditions", ())
        except (ApiError, *UNREACHABLE):
            return False
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class LabCluster:
    """One cluster of a running lab."""

    def __init__(self, context: Context, spec: Cluster) -> None:
        self.spec = spec
        self.name = spec.name
        self._context = context
        place = control_plane_place(spec, context.index)
        self.place = place
        self.addresses = place.addresses
        self.netns = context.network.name(place.label)
        self.netns_path = context.network.path(place.label)
        self.directory = context.store.disks / spec.name / "control-plane"
        self.control = context.store.run / "control" / spec.name
        self.plan = arguments.Plan(
            directory=self.directory,
            pki=context.store.pki / spec.name,
            address=place.addresses[0],
            port=API_PORT,
            services=spec.services,
            pods=spec.pods,
            nodes=True,
            flags=spec.flags,
        )
        self.group = Group(f"clustermesh-lab/{context.store.name}/{spec.name}")
        self.nodes = {n: LabNode(context, self, n) for n in spec.nodes}

    @property
    def authority(self) -> Authority:
        """The cluster's certificate authority."""
        return Authority(self.plan.pki, self.name)

    @property
    def url(self) -> str:
        """Address of the API server, reachable from this machine and from every node of the lab."""
        return self.plan.url

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of a cluster admin (group system:masters)."""
        return self.plan.pki / "admin.kubeconfig"

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """Pod networks, one a family."""
        return self.spec.pods

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        """Service networks, one a family."""
        return self.spec.services

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, one JSON object a line."""
        return self.plan.audit_log

    @property
    def logs(self) -> Path:
        """Directory with COMPONENT.log of each program of the control plane."""
        return self.directory

    @property
    def api(self) -> Api:
        """The lab's own way to the API server."""
        pki = self.plan.pki
        return Api(self.url, pki / "ca.crt", pki / "admin.crt", pki / "admin.key")

    def client(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Kubeconfig of another identity; it may do what RBAC grants that user and those groups."""
        file = "client-" + "-".join(part.replace("/", "_").replace(":", "_") for part in (user, *groups))
        return self.authority.kubeconfig(file, self.url, user, groups, context=self.name)

    def kubectl(self, *argv: str, stdin: str | None = None, timeout_s: float = 120) -> str:
        """Output of kubectl as admin; raises LabError with its words when it fails."""
        env = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        return run(*program("kubectl"), *argv, stdin=stdin, timeout_s=timeout_s, env=env)

    def supervisor(self) -> ProcessId | None:
        """The supervisor of the control plane; None when it does not run."""
        return ProcessId.read(self.control / "supervisor.pid")

    def start_control_plane(self) -> None:
        """Start it unless it runs, and wait until the API server is ready."""
        if not self.supervisor():
            self._prepare()
            spec = self.control / "supervisor.json"
            argv = [sys.executable, "-m", "clustermesh_lab.inside.supervise", str(spec)]
            log = self._context.store.run / f"{self.name}.log"
            started = spawn_detached(argv, log=log, netns=self.netns_path, cgroup_files=self.group.create())
            started.write(self.control / "supervisor.pid")
        self.wait_api()
        (self.control / "api-ready").touch()
        addons.apply(self.api, self.spec)
        if self.spec.cni == calico.COMPONENT:
            addons.apply_manifest(self.kubectl, calico.objects())

    def wait_api(self, timeout_s: float = API_READY_S) -> None:
        """Until the API server says it is ready."""
        deadline = time.monotonic() + timeout_s
        while not self.api.is_ready():
            if time.monotonic() > deadline:
                log = self.logs / "kube-apiserver.log"
                words = log.read_text(errors="replace").splitlines()[-2:] if log.exists() else []
                raise LabError(f"the API server of {self.name} is not ready: {' | '.join(words)}", do=f"see {log}")
            time.sleep(0.1)

    def start_nodes(self) -> None:
        """Power on every node that is off."""
        for node in self.nodes.values():
            node.power_on()

    def wait_ready(self, timeout_s: float = 240) -> None:
        """Until its nodes are Ready and its DNS answers; without a pod network, until the nodes have registered."""
        deadline = time.monotonic() + timeout_s
        if self._context.machines:
            for node in self.nodes.values():
                node.machine.wait_ssh()
        while problem := self._not_ready():
            if time.monotonic() > deadline:
                raise LabError(f"cluster {self.name} is not ready after {timeout_s:.0f} s: {problem}")
            time.sleep(0.2)
        say(f"cluster {self.name} is ready")

    def _not_ready(self) -> str:
        try:
            present = {n["metadata"]["name"]: n for n in self.api.get("/api/v1/nodes")["items"]}
            self.api.get("/api/v1/namespaces/default/serviceaccounts/default")  # without it no pod can be created
        except (ApiError, *UNREACHABLE) as error:
            return str(error)
        for name in self.spec.nodes:
            if name not in present:
                return f"node {name} has not registered (see `lab logs {self.name}/{name} kubelet`)"
        if not PLUGINS[self.spec.cni].LAB_INSTALLS:
            return ""
        for name, node in present.items():
            ready = next((c for c in node["status"].get("conditions", ()) if c["type"] == "Ready"), None)
            if not ready or ready["status"] != "True":
                return f"node {name}: {ready['message'] if ready else 'no condition yet'}"
        if self.spec.dns and self.spec.nodes:
            dns = self.api.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
            if not dns.get("status", {}).get("readyReplicas"):
                return "CoreDNS is not ready (kubectl -n kube-system describe pods)"
        return ""

    def _prepare(self) -> None:
        """Certificates, namespace and files of the control plane."""
        private_dir(self.directory)
        private_dir(self.control)
        if not self.netns_path.is_mount():
            self._context.network.attach(self.spec, self.place)
        pki, url, context = self.authority, self.url, self.name
        dns = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        dns.append(f"kubernetes.default.svc.{arguments.CLUSTER_DOMAIN}")
        own = [*self.addresses, "127.0.0.1", *self.spec.service_address(1)]
        pki.issue("apiserver", "kube-apiserver", names=[*dns, "localhost", *own])
        pki.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
        pki.issue("front-proxy-client", "front-proxy-client")
        pki.issue("podnet", "clustermesh-lab:podnet")
        pki.kubeconfig("admin", url, "admin", ["system:masters"], context=context)
        pki.kubeconfig("controller-manager", url, "system:kube-controller-manager", context=context)
        pki.kubeconfig("scheduler", url, "system:kube-scheduler", context=context)
        arguments.write_files(self.plan)
        told = {"control": str(self.control), "logs": str(self.logs), "components": self._components()}
        private_file(self.control / "supervisor.json", json.dumps(told))

    def _components(self) -> list[dict[str, Any]]:
        ready = str(self.control / "api-ready")
        found: list[dict[str, Any]] = [
            {"name": "etcd", "argv": arguments.etcd(self.plan)},
            {"name": "kube-apiserver", "argv": arguments.api_server(self.plan, controllers=True)},
            {"name": "kube-controller-manager", "argv": arguments.controller_manager(self.plan), "wait_for": ready},
            {"name": "kube-scheduler", "argv": arguments.scheduler(self.plan), "wait_for": ready},
        ]
        if self.spec.cni == calico.COMPONENT:
            kubeconfig = calico.credentials(self.authority, calico.CONTROLLERS, self.url, self.name)
            found.append(calico.controllers(kubeconfig, self.control, ready))
        if PLUGINS[self.spec.cni].LAB_ROUTES:
            spec = self.control / "podnet.json"
            private_file(spec, json.dumps(nodes.podnet_spec(self.spec, self.url, "", str(self.plan.pki))))
            argv = [sys.executable, "-m", "clustermesh_lab.inside.podnet", str(spec)]
            found.append({"name": "podnet", "argv": argv, "wait_for": ready})
        return found
