"""In a pod the daemons are their ServiceAccount: the token and the certificates that the kubelet puts there."""

from __future__ import annotations

import base64
import contextlib
import json
from urllib.parse import urlsplit

import pytest
import yaml
from clustermeshd.kube import access, errors
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.model.errors import Fatal


@pytest.fixture
async def pod(api, tmp_path, monkeypatch):
    """The files and variables of a pod whose ServiceAccount is kube-system's default; the token file."""
    cluster = yaml.safe_load(api.kubeconfig.read_text())["clusters"][0]["cluster"]
    async with Client(await from_file(api.kubeconfig), user_agent="test") as client:
        path = "/api/v1/namespaces/kube-system/serviceaccounts"
        with contextlib.suppress(errors.Conflict):  # made by another test
            await client.request("POST", path, body=b'{"metadata": {"name": "in-a-pod"}}')
        made = json.loads(await client.request("POST", f"{path}/in-a-pod/token", body=b'{"spec": {}}'))
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(made["status"]["token"])
    authority.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    monkeypatch.setattr(access, "_SERVICE_ACCOUNT", tmp_path)
    server = urlsplit(cluster["server"])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", server.hostname)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    return token


async def test_a_pod_is_its_service_account(pod):
    found = await from_file(None)
    assert found.token == pod.read_text()
    assert found.expires_at is not None
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    async with Client(found, user_agent="test") as client:
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        said = json.loads(await client.request("POST", path, body=json.dumps(review).encode()))
    assert said["status"]["userInfo"]["username"] == "system:serviceaccount:kube-system:in-a-pod"


@pytest.mark.parametrize("lacking", ["token", "ca.crt", "KUBERNETES_SERVICE_HOST"])
async def test_what_lacks_of_a_service_account_is_named(pod, monkeypatch, lacking):
    if lacking.isupper():
        monkeypatch.delenv(lacking)
    else:
        (pod.parent / lacking).unlink()
    with pytest.raises(Fatal, match=f"{lacking}.*--kubeconfig"):
        await from_file(None)


@pytest.mark.parametrize("name", ["token", "ca.crt"])
async def test_an_empty_file_of_a_service_account_is_no_credential(pod, name):
    (pod.parent / name).write_text("")
    with pytest.raises(Fatal, match=r"empty.*--kubeconfig"):
        await from_file(None)
