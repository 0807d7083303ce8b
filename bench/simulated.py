"""API servers that only store: what playbook mesh needs of them, for more clusters than real ones would fit.

One process serves all of them over TLS, each below its own path. Objects live in memory and are applied whole, without
admission or field ownership; a token appears in a Secret of that type at once, and a definition is established.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clustermesh_lab.pki import Authority

_COLLECTION = re.compile(r"/api(s/[^/]+)?/v[^/]+(/namespaces/[^/]+)?/[^/]+")
_SERVED = {
    "/apis/clustermesh.io/v1alpha1": (("RemoteClusterConfiguration", "remoteclusterconfigurations", False),),
    "/apis/apiextensions.k8s.io/v1": (("CustomResourceDefinition", "customresourcedefinitions", False),),
    "/apis/rbac.authorization.k8s.io/v1": (
        ("ClusterRole", "clusterroles", False),
        ("ClusterRoleBinding", "clusterrolebindings", False),
        ("Role", "roles", True),
        ("RoleBinding", "rolebindings", True),
    ),
    "/api/v1": (
        ("Namespace", "namespaces", False),
        ("Secret", "secrets", True),
        ("ServiceAccount", "serviceaccounts", True),
    ),
}


class SimulatedClusters:
    """A context manager; ``writes`` counts requests that changed something, by cluster."""

    def __init__(self, names: Sequence[str], directory: Path) -> None:
        self.writes: Counter[str] = Counter()
        self._authority = Authority(directory / "pki", "simulated")
        self._objects: dict[str, dict[str, dict]] = {name: {} for name in names}
        self._lock = threading.Lock()
        self._version = 0
        certificate, key = self._authority.issue("server", "simulated", names=["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> SimulatedClusters:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, name: str) -> Path:
        """Access to one of them."""
        url = f"https://127.0.0.1:{self._server.server_address[1]}/{name}"
        return self._authority.kubeconfig(f"client-{name}", url, "admin", ["system:masters"], context=name)

    def answer(self, method: str, path: str, body: dict) -> tuple[int, dict]:
        """Status and document for a request; ``path`` begins with the cluster's name."""
        _, name, rest = path.split("/", 2)
        with self._lock:
            return self._answer(name, self._objects[name], method, f"/{rest}", body)

    def _answer(self, name: str, objects: dict[str, dict], method: str, path: str, body: dict) -> tuple[int, dict]:
        if method == "GET":
            return self._read(objects, path)
        if method == "PATCH":
            self.writes[name] += 1
            self._version += 1
            objects[path] = self._stored(body, objects.get(path))
            return 200, objects[path]
        if method == "DELETE" and path in objects:
            self.writes[name] += 1
            return 200, objects.pop(path)
        return 404, {"message": "not found"}

    def _read(self, objects: dict[str, dict], path: str) -> tuple[int, dict]:
        if path in _SERVED:
            resources = [{"kind": k, "name": p, "namespaced": n} for k, p, n in _SERVED[path]]
            return 200, {"resources": resources}
        if path == "/version":
            return 200, {"gitVersion": "v1.36.0", "major": "1", "minor": "36"}
        if path in objects:
            return 200, objects[path]
        if _COLLECTION.fullmatch(path) and "projectcalico" not in path:
            items = [item for key, item in objects.items() if key.rpartition("/")[0] == path]
            return 200, {"metadata": {"resourceVersion": str(self._version)}, "items": items}
        return 404, {"message": "not found"}

    def _stored(self, body: dict, before: dict | None) -> dict:
        uid = before["metadata"]["uid"] if before else f"00000000-0000-4000-8000-{self._version:012d}"
        made = {**body, "metadata": {**body["metadata"], "uid": uid, "resourceVersion": str(self._version)}}
        made["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        if body["kind"] == "CustomResourceDefinition":
            made["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
        if body.get("type") == "kubernetes.io/service-account-token":
            made["data"] = {"token": base64.b64encode(f"token-{uid}".encode()).decode()}
        return made

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        clusters = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                status, document = clusters.answer(self.command, unquote(urlsplit(self.path).path), body)
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PATCH = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler
