"""Two clusters with a mesh between them, for a command to look at, and the command itself."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from clustermesh_lab import ControlPlane
from clustermesh_lab.build import program
from clustermeshd.cli import people
from clustermeshd.model import names

READER = {  # what mesh_access grants to peers
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "peer"},
    "rules": [
        {
            "apiGroups": [""],
            "resources": ["nodes", "namespaces", "pods", "serviceaccounts", "services", "endpoints"],
            "verbs": ["get", "list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
    ],
}


@dataclass(frozen=True)
class Done:
    """What a run of the command gave."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def clustermesh(kubeconfig: Path | None, *argv: str) -> Done:
    """Runs the command in this process."""
    where = () if kubeconfig is None else (f"--kubeconfig={kubeconfig}",)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _own_logging():
        try:
            status = people.main([*where, *argv])
        except SystemExit as ended:
            status = int(ended.code or 0)
    assert "Traceback" not in err.getvalue()
    return Done(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def kubectl(api: ControlPlane, *argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [*program("kubectl"), f"--kubeconfig={api.kubeconfig}", *argv], input=stdin, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def apply(api: ControlPlane, *documents: Mapping[str, Any]) -> None:
    """Applies objects, then the status of those that have one."""
    line = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    bare = [{k: v for k, v in document.items() if k != "status"} for document in documents]
    kubectl(api, *line, stdin=yaml.safe_dump_all(bare))
    told = [{k: v for k, v in document.items() if k != "spec"} for document in documents if "status" in document]
    if told:
        kubectl(api, *line, "--subresource=status", stdin=yaml.safe_dump_all(told))


def thing(kind: str, name: str, namespace: str | None = None, version: str = "v1", **fields: Any) -> dict[str, Any]:
    meta = {"name": name} | ({"namespace": namespace} if namespace else {}) | fields.pop("metadata", {})
    return {"apiVersion": version, "kind": kind, "metadata": meta, **fields}


def node(name: str, cidr: str, address: str) -> dict[str, Any]:
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    return thing("Node", name, spec={"podCIDR": cidr, "podCIDRs": [cidr]}, status=status)


def service(namespace: str, name: str, app: str = "", selector: str = "", **more: Any) -> dict[str, Any]:
    annotations = ({names.SERVICE_SELECTOR: selector} if selector else {}) | more.pop("annotations", {})
    meta = {"labels": {"app": app} if app else {}, "annotations": annotations}
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return thing("Service", name, namespace, metadata=meta, spec={"ports": ports, **more})


def endpoint_slice(
    namespace: str, service: str, *ips: str, port: str = "http", ready: tuple[bool, ...] = ()
) -> dict[str, Any]:
    answers = ready or (True,) * len(ips)
    return thing(
        "EndpointSlice",
        f"{service}-1",
        namespace,
        "discovery.k8s.io/v1",
        metadata={"labels": {names.SERVICE_NAME: service}},
        addressType="IPv4",
        ports=[{"name": port, "port": 8080, "protocol": "TCP"}],
        endpoints=[
            {"addresses": [ip], "conditions": {"ready": is_ready}} for ip, is_ready in zip(ips, answers, strict=True)
        ],
    )


def pod(namespace: str, name: str, on: str, ip: str, **more: Any) -> dict[str, Any]:
    labels = {"app": name, **more.pop("labels", {})}
    spec = {
        "nodeName": on,
        "automountServiceAccountToken": False,
        "containers": [{"name": "main", "image": "none"}],
        **more,
    }
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]} if ip else {"phase": "Pending"}
    return thing("Pod", name, namespace, metadata={"labels": labels}, spec=spec, status=status)


def access_secret(name: str, kubeconfig: str, **more: str) -> dict[str, Any]:
    values = {"datastoreType": "kubernetes", "kubeconfig": kubeconfig, **more}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return thing("Secret", name, names.NAMESPACE, data=data)


def configuration(name: str, secret: str, mode: str = "Enabled") -> dict[str, Any]:
    spec = {
        "clusterAccessSecret": {"name": secret, "namespace": names.NAMESPACE},
        "syncOptions": {"overlayRoutingMode": mode},
    }
    return thing("RemoteClusterConfiguration", name, None, names.API_VERSION, spec=spec)


def mesh_node(name: str, **status: Any) -> dict[str, Any]:
    """What an agent writes."""
    device = {
        "name": "clustermesh0",
        "vni": 4097,
        "port": 4790,
        "mtu": 1450,
        "underlayInterface": "eth0",
        "underlayAddress": "192.168.1.1",
    }
    ready = {"type": "Ready", "status": "True", "reason": "Programmed", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    told = {
        "agentVersion": "0.1.0",
        "devices": [device],
        "conditions": [{**ready, "message": "everything wanted is programmed", "observedGeneration": 1}],
        **status,
    }
    return thing("MeshNode", name, None, names.API_VERSION, status=told)


@contextlib.contextmanager
def controller(api: ControlPlane, log: Path) -> Iterator[None]:
    """The real one, as the leader of the cluster."""
    line = [sys.executable, "-m", "clustermeshd.cli.daemon", "controller", f"--kubeconfig={api.kubeconfig}"]
    with log.open("w") as errors:
        running = subprocess.Popen([*line, "--health-port=0"], stderr=errors, env={**os.environ, "NOTIFY_SOCKET": ""})
    try:
        yield
    finally:
        running.terminate()
        running.wait(timeout=20)


def eventually(claim: Any, timeout_s: float = 60.0) -> None:
    """Waits for what happens in another process."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
