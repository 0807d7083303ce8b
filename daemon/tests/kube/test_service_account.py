"""In a pod the daemons are their ServiceAccount: the token and the certificates that the kubelet puts there."""

from __future__ import annotations

import base64
import json
from urllib.parse import urlsplit

import pytest
import yaml
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from kubernetes.aio.config import incluster_config


@pytest.fixture
async def pod(api, tmp_path, monkeypatch):
    """The files and variables of a pod whose ServiceAccount is kube-system's default; the token file."""
    cluster = yaml.safe_load(api.kubeconfig.read_text())["clusters"][0]["cluster"]
    async with Client(await from_file(api.kubeconfig), user_agent="test") as client:
        path = "/api/v1/namespaces/kube-system/serviceaccounts"
        await client.request("POST", path, body=b'{"metadata": {"name": "in-a-pod"}}')
        made = json.loads(await client.request("POST", f"{path}/in-a-pod/token", body=b'{"spec": {}}'))
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(made["status"]["token"])
    authority.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    server = urlsplit(cluster["server"])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", server.hostname)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    return token


async def test_a_pod_is_its_service_account(pod):
    access = await from_file(None)
    assert access.token == pod.read_text()
    assert access.expires_at is not None
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    async with Client(access, user_agent="test") as client:
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        said = json.loads(await client.request("POST", path, body=json.dumps(review).encode()))
    assert said["status"]["userInfo"]["username"] == "system:serviceaccount:kube-system:in-a-pod"
