"""Our accounts may do what rights.yml lists, and nothing else: asked of a real API server, resource by resource."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client

from tests.integration_modules.test_modules import auth

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

SYSTEM = "clustermesh-system"
TABLE = yaml.safe_load((Path(__file__).parent / "rights.yml").read_text())
VERBS = (
    *("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"),
    *("impersonate", "escalate", "bind", "approve"),
)
# What no discovery names, or no server of the lab serves
MORE = {
    *(
        f"{plural}.{group}"
        for plural in ("ipamblocks", "ippools", "hostendpoints", "networksets")
        for group in ("crd.projectcalico.org", "projectcalico.org")
    ),
    *("remoteclusterconfigurations.projectcalico.org", "networkpolicies.projectcalico.org", "users", "groups"),
    *("pods/exec", "pods/attach", "pods/portforward", "nodes/proxy", "services/proxy", "serviceaccounts/token"),
    *("remotenodes/status.clustermesh.io", "remoteclusterconfigurations/finalizers.clustermesh.io"),
    *("services/finalizers", "endpoints/restricted", "namespaces[kube-system]", "signers.certificates.k8s.io"),
}

# Of every authenticated account, by Kubernetes' own roles
COMMON = {
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
    "selfsubjectreviews.authentication.k8s.io",
}
Right = tuple[str, str]  # resource, verb


async def discovered(client: Client) -> set[str]:
    """``plural/subresource.group`` of everything that is served."""
    groups = json.loads(await client.request("GET", "/apis"))["groups"]
    found = set()
    for group, version in [("", "v1"), *((g["name"], v["version"]) for g in groups for v in g["versions"])]:
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        for resource in json.loads(await client.request("GET", root))["resources"]:
            found.add(f"{resource['name']}.{group}".rstrip("."))
    return found


async def allowed(client: Client, account: str, namespace: str, what: str, verb: str) -> bool:
    named, _, group = what.partition(".") if "[" not in what else (what, "", "")
    plural, _, name = named.rstrip("]").partition("[")
    resource, _, subresource = plural.partition("/")
    attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name}
    user = {"user": f"system:serviceaccount:{SYSTEM}:{account}"}
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}", "system:authenticated"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {**user, "groups": groups, "resourceAttributes": {**attributes, "namespace": namespace}},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(json.loads(await client.request("POST", path, body=json.dumps(review).encode()))["status"]["allowed"])


async def rights(client: Client, account: str, namespace: str, asked: list[Right]) -> list[Right]:
    """Those of ``asked`` that are allowed."""
    bound = asyncio.Semaphore(16)

    async def ask(right: Right) -> bool:
        async with bound:
            return await allowed(client, account, namespace, *right)

    answers = await asyncio.gather(*map(ask, asked))
    return [right for right, answer in zip(asked, answers, strict=True) if answer]


def by_resource(found: list[Right]) -> dict[str, list[str]]:
    return {what: sorted(verb for named, verb in found if named == what) for what, _ in found if what not in COMMON}


async def test_the_accounts_have_exactly_the_rights_of_the_table(ansible, paris, crds):
    ansible.run("manifests", auth(paris) | {"files": crds})
    for module in ("remote_access", "daemon_access"):
        assert not ansible.run(module, auth(paris)).get("failed")
    async with Client(await from_file(paris.kubeconfig), user_agent="rights") as client:
        resources = await discovered(client) | MORE
        secret = {"secrets", "configmaps", "remotenodes.clustermesh.io", "clusterroles.rbac.authorization.k8s.io"}
        assert secret <= resources
        everything = [(what, verb) for what in sorted(resources) for verb in VERBS]
        for account, expected in TABLE.items():
            found = await rights(client, account, SYSTEM, everything)
            assert by_resource(found) == expected[SYSTEM], f"{account} in {SYSTEM}"
            # what is allowed in every namespace is allowed in this one
            assert by_resource(await rights(client, account, "", found)) == expected["cluster"], account
