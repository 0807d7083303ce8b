"""Three real clusters, a line to each peer that can be broken, and the controller as a real process."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from clustermesh_lab import ControlPlane
from clustermesh_lab.kubeapi import Api, ApiError
from controller_model import FROM, MANAGER, OURS, OWNER, Entry, Json, wanted, wanted_nodes, written
from controller_process import Controller
from controller_relay import Relay

NS = "shop"
CRDS = Path(__file__).parents[3] / "roles" / "mesh_crds" / "files"
RCC = "RemoteClusterConfiguration"
_HOME = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "Endpoints": "/api/v1/namespaces/{}/endpoints",
    "Event": "/api/v1/namespaces/{}/events",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "ServiceCIDR": "/apis/networking.k8s.io/v1/servicecidrs",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    RCC: "/apis/clustermesh.io/v1alpha1/remoteclusterconfigurations",
    "RemoteNode": "/apis/clustermesh.io/v1alpha1/remotenodes",
}
READS = ("get", "list", "watch")
_MODELLED = ("Node", "Service", "EndpointSlice", "ServiceCIDR")


class Cluster:
    """One API server, spoken to in raw JSON by its admin."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.plane = ControlPlane(name=name, services=(f"10.{96 + number}.0.0/16",))

    @property
    def api(self) -> Api:
        pki = self.plane.pki.directory
        return Api(self.plane.url, self.plane.ca, pki / "admin.crt", pki / "admin.key", timeout_s=30)

    def put(self, *documents: Json) -> None:
        """Server-side apply, the status too where a document has one."""
        for document in documents:
            path = f"{self.path(document)}/{document['metadata']['name']}"
            for target in (path, *([f"{path}/status"] if "status" in document else [])):
                query = "?fieldManager=test&force=true"
                self.api.raw("PATCH", target + query, json.dumps(document), "application/apply-patch+yaml")

    def delete(self, *documents: Json) -> None:
        for document in documents:
            with contextlib.suppress(ApiError):
                self.api.raw("DELETE", f"{self.path(document)}/{document['metadata']['name']}?gracePeriodSeconds=0")

    @staticmethod
    def path(document: Json) -> str:
        return _HOME[document["kind"]].format(document["metadata"].get("namespace", NS))

    def all(self, kind: str, namespace: str = NS) -> list[Json]:
        items = self.api.get(_HOME[kind].format(namespace))["items"]
        return [item | {"kind": kind} for item in items]

    def get(self, kind: str, name: str, namespace: str = NS) -> Json:
        return self.api.get(f"{_HOME[kind].format(namespace)}/{name}")

    def snapshot(self) -> dict[str, list[Json]]:
        return {kind: self.all(kind) for kind in _MODELLED}

    def version(self) -> str:
        """The resourceVersion of now."""
        return str(self.api.get(f"{_HOME['EndpointSlice'].format(NS)}?limit=1")["metadata"]["resourceVersion"])

    def history(self, since: str) -> Iterator[dict[str, Json]]:
        """Our slices by name, at ``since`` and after every change from there until now: nothing is missed."""
        path = _HOME["EndpointSlice"].format(NS)
        begin = self.api.get(f"{path}?resourceVersion={since}&resourceVersionMatch=Exact")
        state = {piece["metadata"]["name"]: piece for piece in begin["items"] if is_ours(piece)}
        yield dict(state)
        for event in self.api.watch(path, since, timeout_s=1):
            piece = event["object"]
            if event["type"] == "BOOKMARK" or not is_ours(piece):
                continue
            assert event["type"] in ("ADDED", "MODIFIED", "DELETED"), event
            state.pop(piece["metadata"]["name"], None)
            if event["type"] != "DELETED":
                state[piece["metadata"]["name"]] = piece
            yield dict(state)


def asked(cluster: Cluster, *users: str) -> list[str]:
    """Verb and path of every request of these users, by the audit log of an API server."""
    entries = map(json.loads, cluster.plane.audit_log.read_text().splitlines())
    return [f"{e['verb']} {e['requestURI']}" for e in entries if e["user"].get("username") in users]


def is_ours(piece: Json) -> bool:
    return piece["metadata"].get("labels", {}).get(MANAGER) == OURS


def until(holds: Callable[[], Any], timeout_s: float, what: Callable[[], object] | str = "") -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < timeout_s, what() if callable(what) else what
        time.sleep(0.05)
    return time.monotonic() - started


# ---- documents


def node(name: str, cidr: str, address: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def service(name: str, labels: Json | None = None, selector: str | None = None, **spec: object) -> Json:
    """A Service without selector; federated where ``selector`` is given."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": NS,
            "labels": labels or {},
            "annotations": {} if selector is None else {"federation.tigera.io/serviceSelector": selector},
        },
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}], **spec},
    }


def backing(app: str, name: str, *addresses: str) -> list[Json]:
    """A Service with label ``app`` and its slice."""
    return [service(name, {"app": app}), slice_of(name, *addresses)]


def slice_of(service_name: str, *addresses: str, number: int = 1) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{service_name}-{number}", "namespace": NS, "labels": {OWNER: service_name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    }


def secret(name: str, kubeconfig: str, **annotations: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "data": {"kubeconfig": base64.b64encode(kubeconfig.encode()).decode()},
    }


def rcc(name: str, **spec: object) -> Json:
    return {
        "apiVersion": "clustermesh.io/v1alpha1",
        "kind": RCC,
        "metadata": {"name": name},
        "spec": {
            "clusterAccessSecret": {"name": name, "namespace": "default"},
            "syncOptions": {"overlayRoutingMode": "Enabled"},
            **spec,
        },
    }


# ---- the world


class World:
    """East is our cluster; ``peers`` are the others, each behind the relay of its name."""

    def __init__(self, directory: Path, east: Cluster, peers: dict[str, Cluster]) -> None:
        self.directory = directory
        self.east = east
        self.peers = peers
        self.relays = {name: Relay(peer.plane._plan.port) for name, peer in peers.items()}
        self.controllers: list[Controller] = []

    def fill(self) -> None:
        """What every test begins with."""
        for cluster in (self.east, *self.peers.values()):
            cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}})
            n = cluster.number
            cluster.put(node("n1", f"10.{n}.0.0/24", f"192.168.{n}.1"))
            cluster.put(*backing("reviews", f"reviews-{n}", f"10.{n}.0.5", f"10.{n}.0.6"))
            cluster.put(*backing(f"only-{cluster.name}", "own", f"10.{n}.0.9"))
        self.east.put(service("reviews", selector='app == "reviews"'))
        self.east.put(*(service(f"of-{name}", selector=f'app == "only-{name}"') for name in self.peers))
        self.east.put(slice_of("reviews", "10.1.0.77", number=77))  # a stranger's, of our own federated Service

    def empty(self) -> None:
        """Removes what a test may have made."""
        for relay in self.relays.values():
            relay.mend()
        for cluster in (self.east, *self.peers.values()):
            for kind in ("Service", "EndpointSlice", "Endpoints", "Event", "Node"):
                for document in cluster.all(kind):
                    cluster.delete(document)
        for kind in (RCC, "RemoteNode"):
            self.east.delete(*self.east.all(kind))
        self.east.delete(*self.east.all("Secret", "default"), *self.east.all("Lease", "default"))

    def kubeconfig(self, name: str) -> str:
        """Admin of a peer, by way of its relay."""
        peer, relay = self.peers[name], self.relays[name]
        return peer.plane.kubeconfig.read_text().replace(peer.plane.url, f"https://127.0.0.1:{relay.port}")

    def join(self, *names: str, **spec: object) -> None:
        for name in names:
            self.east.put(secret(name, self.kubeconfig(name)), rcc(name, **spec))

    def start(
        self,
        *flags: str,
        identity: str = "",
        groups: Sequence[str] = ("system:masters",),
        kubeconfig: Path | None = None,
        **environment: str,
    ) -> Controller:
        """A controller, by default one that leads without election, as a user of its own."""
        identity = identity or f"controller-{len(self.controllers)}"
        kubeconfig = kubeconfig or self.east.plane.client(identity, groups)
        flags = flags or ("--no-leader-election",)
        made = Controller(self.directory, kubeconfig, identity, *flags, **environment)
        self.controllers.append(made)
        until(lambda: "started as" in made.log, 60, "it did not start")
        return made

    # ---- what is, and what must be

    def joined(self) -> dict[str, dict[str, list[Json]]]:
        """Snapshots of the configured peers, the oldest configuration first."""
        age = sorted((c["metadata"]["creationTimestamp"], c["metadata"]["name"]) for c in self.east.all(RCC))
        return {name: self.peers[name].snapshot() for _, name in age if name in self.peers}

    def endpoints(self) -> list[Entry]:
        return written(self.east.all("EndpointSlice"))

    def addresses(self, name: str, *, ready: bool | None = None) -> list[str]:
        """Addresses in our slices of a Service."""
        entries = [e for e in self.endpoints() if e.service == f"{NS}/{name}"]
        return [e.address for e in entries if ready is None or e.is_ready is ready]

    def nodes(self) -> dict[str, set[str]]:
        found = [n for n in self.east.all("RemoteNode") if n["metadata"].get("labels", {}).get(FROM)]
        return {n["metadata"]["name"]: set(n["spec"].get("podCIDRs") or ()) for n in found}

    def settle(self, timeout_s: float = 30) -> float:
        """I6: seconds until everything of ours is what the model says, each endpoint once."""
        local, peers = self.east.snapshot(), self.joined()
        must, must_nodes = sorted(wanted(local, peers)), wanted_nodes(local, peers)
        return until(
            lambda: self.endpoints() == must and self.nodes() == must_nodes,
            timeout_s,
            lambda: f"{set(self.endpoints()) ^ set(must)} {self.nodes()} for {must_nodes}\n{self.logs()}",
        )

    def logs(self) -> str:
        return "\n".join(c.log[-3000:] for c in self.controllers)

    def versions(self) -> dict[str, str]:
        """uid and resourceVersion of all our slices and nodes: the same as before means that nothing was written."""
        found = [p for p in self.east.all("EndpointSlice") if is_ours(p)] + self.east.all("RemoteNode")
        return {f"{o['kind']} {o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """Status and reason of a condition of a RemoteClusterConfiguration."""
        conditions = self.east.get(RCC, name).get("status", {}).get("conditions") or ()
        return next(((c["status"], c["reason"]) for c in conditions if c["type"] == kind), ("", ""))

    def never_without(self, since: str, service_name: str, *addresses: str) -> None:
        """I1: at no moment since then was an address missing from a Service."""
        for state in self.east.history(since):
            entries = [e for e in written(state.values()) if e.service == f"{NS}/{service_name}"]
            missing = set(addresses) - {e.address for e in entries if e.is_ready}
            assert not missing, f"{missing} were missing for a moment"

    def writes(self, *users: str) -> list[str]:
        """Verb and path of what these users wrote to our API server, other than Leases, by its audit log."""
        return [text for text in asked(self.east, *users) if text.split()[0] not in READS and "/leases" not in text]


def install(cluster: Cluster, file: Path) -> None:
    """Applies a CRD and waits until it is served."""
    document = yaml.safe_load(file.read_text())
    cluster.put(document)
    names = document["spec"]["names"]["plural"], document["spec"]["versions"][0]["name"]
    until(lambda: is_served(cluster, f"/apis/clustermesh.io/{names[1]}/{names[0]}"), 20)


def is_served(cluster: Cluster, path: str) -> bool:
    with contextlib.suppress(ApiError):
        cluster.api.get(path)
        return True
    return False
