"""A token that is stored is good only as long as the API server accepts it."""

from __future__ import annotations

import base64
import json

import pytest

from tests.integration_modules.direct import Direct
from tests.integration_modules.runner import audit, kubectl, writes
from tests.integration_modules.test_modules import actions, auth

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
SYSTEM = ("-n", "clustermesh-system")
INVALID = "kubernetes.io/legacy-token-invalid-since=2025-01-01"  # by which Kubernetes itself ends tokens without end


@pytest.fixture(scope="module")
def direct(tmp_path_factory) -> Direct:
    return Direct(tmp_path_factory.mktemp("collections"))


def run(direct: Direct, plane, module: str, options: dict) -> dict:
    """A check run that writes nothing and predicts the run; and a second one, which has nothing to do."""
    start = len(audit(plane))
    predicted = direct.run(module, options, check=True)
    assert writes(plane, start) == []
    real = direct.run(module, options)
    assert (real["changed"], actions(real)) == (predicted["changed"], actions(predicted))
    start = len(audit(plane))
    again = direct.run(module, options)
    assert not again["changed"], again
    assert writes(plane, start) == []
    return real


def revoked_token(plane, account: str) -> str:
    """A token of the account as it is, of long life, bound to a Secret that is gone."""
    kubectl(plane, *SYSTEM, "create", "secret", "generic", "bound")
    bound = ("--bound-object-kind=Secret", "--bound-object-name=bound", "--duration=720h")
    token = kubectl(plane, *SYSTEM, "create", "token", account, *bound).strip()
    kubectl(plane, *SYSTEM, "delete", "secret", "bound")
    return token


def test_a_requested_token_that_is_revoked_is_issued_anew(direct, paris):
    options = {**auth(paris), "token_type": "request"}
    first = run(direct, paris, "remote_access", options)
    kept = base64.b64encode(revoked_token(paris, "clustermesh-remote").encode()).decode()
    patch = json.dumps({"data": {"token": kept}})
    kubectl(paris, *SYSTEM, "patch", "secret", "clustermesh-remote-issued", "-p", patch)
    again = run(direct, paris, "remote_access", options)
    assert (first["renewed"], again["renewed"]) == ("missing", "refused")
    assert actions(again)["Secret/clustermesh-remote-issued"] == "update"


@pytest.mark.parametrize(
    ("module", "account"), [("remote_access", "clustermesh-remote"), ("daemon_access", "clustermesh-agent")]
)
def test_a_token_without_end_that_is_revoked_is_replaced(direct, paris, module, account):
    first = direct.run(module, auth(paris))  # once: for ten seconds an API server trusts what it accepted
    kubectl(paris, *SYSTEM, "label", "secret", f"{account}-token", INVALID)
    again = run(direct, paris, module, auth(paris))
    found = {name: action for name, action in actions(again).items() if action != "keep"}
    assert found == {f"Secret/{account}-token-2": "create", f"Secret/{account}-token": "delete"}
    key = "kubeconfig" if module == "remote_access" else "agent_kubeconfig"
    assert again[key] != first[key]


def test_a_revoked_token_does_not_take_older_ones_along(direct, oslo):
    """An older token may be the one that peers still use."""
    direct.run("remote_access", auth(oslo))
    direct.run("remote_access", {**auth(oslo), "rotation": "issue"})
    kubectl(oslo, *SYSTEM, "label", "secret", "clustermesh-remote-token-2", INVALID)
    answer = direct.run("remote_access", {**auth(oslo), "rotation": "retire"})
    found = {name: action for name, action in actions(answer).items() if action != "keep"}
    assert found == {"Secret/clustermesh-remote-token-3": "create", "Secret/clustermesh-remote-token-2": "delete"}


@pytest.mark.parametrize(
    ("module", "account"), [("remote_access", "clustermesh-remote"), ("daemon_access", "clustermesh-agent")]
)
def test_a_check_of_a_rotation_foretells_its_end_as_well(direct, rome, module, account):
    """In a check run nothing is issued, so that its second half finds one token only."""
    options = auth(rome)
    direct.run(module, options)

    def rotate(check: bool) -> list[dict]:
        issued = direct.run(module, {**options, "rotation": "issue"}, check=check)
        in_use = [item["name"] for item in issued["objects"] if item["kind"] == "Secret"]
        return [issued, direct.run(module, {**options, "rotation": "retire", "in_use": in_use}, check=check)]

    start = len(audit(rome))
    foretold = rotate(check=True)
    assert writes(rome, start) == []
    done = rotate(check=False)
    assert list(map(actions, foretold)) == list(map(actions, done))
    found = {name: action for name, action in actions(done[1]).items() if name.startswith(f"Secret/{account}-token")}
    assert found == {f"Secret/{account}-token": "delete", f"Secret/{account}-token-2": "keep"}


def test_a_token_that_is_newer_than_those_in_use_and_the_ones_in_use_stay(direct, rome):
    """Somebody else may rotate meanwhile."""
    options = {**auth(rome), "rotation": "retire"}
    direct.run("remote_access", {**options, "rotation": "keep"})
    stored = sorted(kubectl(rome, *SYSTEM, "get", "secrets", "-o", "name").split())
    name = next(item.removeprefix("secret/") for item in stored if "clustermesh-remote-token" in item)
    direct.run("remote_access", {**options, "rotation": "issue"})
    assert set(actions(direct.run("remote_access", {**options, "in_use": [name]})).values()) == {"keep"}
    gone = actions(direct.run("remote_access", options))
    assert [item for item, action in gone.items() if action == "delete"] == [f"Secret/{name}"]
