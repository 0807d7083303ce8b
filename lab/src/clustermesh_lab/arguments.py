"""Command lines of the control plane's programs.

One place for the API server alone (tests) and for whole clusters, so that both behave alike. Values in, argument lists
out. What a real installation would turn on is on: Node and RBAC authorizers, NodeRestriction, the audit log.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .build import program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CLUSTER_DOMAIN = "cluster.local"
ISSUER = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Where one control plane listens and what it serves. Paths are those of its authority and its data."""

    directory: Path
    pki: Path
    address: str
    port: int
    services: tuple[str, ...]
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    pods: tuple[str, ...] = ()
    nodes: bool = False  # kubelets join: kubelet client certificate, the node's service account rules
    controller_port: int = 10257
    scheduler_port: int = 10259
    flags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Address of the API server, as clients are to name it."""
        return f"https://{bracketed(self.address)}:{self.port}"

    @property
    def etcd_url(self) -> str:
        """Address of etcd's client port."""
        return f"http://127.0.0.1:{self.etcd_port}"

    @property
    def audit_log(self) -> Path:
        """The audit log: one JSON object a line."""
        return self.directory / "audit.log"


def bracketed(address: str) -> str:
    """An IP address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def _line(plan: Plan, component: str, flags: Mapping[str, str]) -> list[str]:
    """Flags of the lab, overridden by those of the topology; an empty value takes a flag away."""
    merged = {**flags, **plan.flags.get(component, {})}
    return [*program(component), *(f"--{k}={v}" for k, v in merged.items() if v)]


def write_files(plan: Plan) -> None:
    """What the command lines name besides certificates."""
    (plan.directory / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))


def etcd(plan: Plan) -> list[str]:
    """The store. No fsync: a lab does not survive the machine anyway, and starts much faster."""
    peer = f"http://127.0.0.1:{plan.etcd_peer_port}"
    return _line(
        plan,
        "etcd",
        {
            "data-dir": str(plan.directory / "etcd"),
            "listen-client-urls": plan.etcd_url,
            "advertise-client-urls": plan.etcd_url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        },
    )


def api_server(plan: Plan, *, controllers: bool) -> list[str]:
    """The API server; without controllers nothing makes default service accounts, so none are demanded."""
    pki = plan.pki
    flags = {
        "etcd-servers": plan.etcd_url,
        "secure-port": str(plan.port),
        "bind-address": plan.address,
        "tls-cert-file": f"{pki}/apiserver.crt",
        "tls-private-key-file": f"{pki}/apiserver.key",
        "client-ca-file": f"{pki}/ca.crt",
        "service-account-key-file": f"{pki}/sa.key",
        "service-account-signing-key-file": f"{pki}/sa.key",
        "service-account-issuer": ISSUER,
        "service-cluster-ip-range": ",".join(plan.services),
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "audit-policy-file": f"{plan.directory}/audit-policy.json",
        "audit-log-path": str(plan.audit_log),
        "allow-privileged": "true",
        "profiling": "false",
    }
    if plan.nodes:
        flags |= {
            "advertise-address": plan.address,
            "kubelet-client-certificate": f"{pki}/apiserver-kubelet-client.crt",
            "kubelet-client-key": f"{pki}/apiserver-kubelet-client.key",
            "kubelet-certificate-authority": f"{pki}/ca.crt",
            "kubelet-preferred-address-types": "InternalIP",
            "proxy-client-cert-file": f"{pki}/front-proxy-client.crt",
            "proxy-client-key-file": f"{pki}/front-proxy-client.key",
            "requestheader-client-ca-file": f"{pki}/ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        }
    else:
        flags |= {"endpoint-reconciler-type": "none"}
    if not controllers:
        flags |= {"disable-admission-plugins": "ServiceAccount"}
    return _line(plan, "kube-apiserver", flags)


def controller_manager(plan: Plan) -> list[str]:
    """The controllers; node CIDRs are given out where the plan has pod CIDRs."""
    pki = plan.pki
    flags = {
        "kubeconfig": f"{pki}/controller-manager.kubeconfig",
        "service-account-private-key-file": f"{pki}/sa.key",
        "use-service-account-credentials": "true",
        "root-ca-file": f"{pki}/ca.crt",
        "cluster-signing-cert-file": f"{pki}/ca.crt",
        "cluster-signing-key-file": f"{pki}/ca.key",
        "leader-elect": "false",
        "service-cluster-ip-range": ",".join(plan.services),
        "secure-port": str(plan.controller_port),
        "bind-address": "127.0.0.1",
        "profiling": "false",
    }
    if plan.pods:
        flags |= {"cluster-cidr": ",".join(plan.pods), "allocate-node-cidrs": "true"}
    return _line(plan, "kube-controller-manager", flags)


def scheduler(plan: Plan) -> list[str]:
    """The scheduler."""
    flags = {
        "kubeconfig": f"{plan.pki}/scheduler.kubeconfig",
        "leader-elect": "false",
        "secure-port": str(plan.scheduler_port),
        "bind-address": "127.0.0.1",
        "profiling": "false",
    }
    return _line(plan, "kube-scheduler", flags)
