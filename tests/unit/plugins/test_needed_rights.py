"""What the caller of the modules must be allowed, and how what is missing is said."""

from __future__ import annotations

import pytest
from ansible_collections.clustermesh.core.plugins.module_utils import _rights
from ansible_collections.clustermesh.core.plugins.module_utils._rights import Right

CALICO = "crd.projectcalico.org/v1"
CASES = [
    {},
    {"daemon_mode": "kubernetes"},
    {"token_type": "request"},
    {"calico": CALICO},
    {"calico": CALICO, "has_pools": True},
]


def missing(wanted: list[Right], *forbidden: Right) -> list[str]:
    return _rights.missing(lambda right: right not in forbidden, wanted)


@pytest.mark.parametrize("case", CASES)
def test_each_right_that_is_missing_is_named_once(case):
    wanted = _rights.needed(**case)
    assert missing(wanted) == []
    assert len(wanted) == len(set(wanted))
    for right in wanted:
        assert missing(wanted, right) == [_rights.shown([right])]


def test_a_line_says_verbs_kind_and_where():
    rights = [Right(verb, "apps", "deployments", "clustermesh-system") for verb in ("get", "patch")]
    wanted = _rights.needed("kubernetes")
    assert missing(wanted, *rights) == ["get/patch deployments.apps in clustermesh-system"]


def test_only_what_a_cluster_runs_is_asked_for():
    def writes(**case) -> set[str]:
        return {right.resource for right in _rights.needed(**case) if right.verb == "create"}

    assert writes(daemon_mode="kubernetes") - writes() == {"daemonsets", "deployments", "poddisruptionbudgets"}
    assert writes(token_type="request") - writes() == {"serviceaccounts/token"}
    assert writes(calico=CALICO, has_pools=True) - writes(calico=CALICO) == {"ippools"}
    assert writes(has_pools=True) == writes()


@pytest.mark.parametrize("role", _rights.roles(), ids=lambda role: role["metadata"]["name"])
def test_a_role_takes_the_right_to_make_it_or_all_that_it_grants(role):
    making, granted = _rights.making(role), _rights.granted(role)
    assert [right.verb for right in making] == ["escalate", "bind"]
    for lacking in ([making[0]], [making[1]], making):
        assert missing([], *lacking) == []
        for right in granted:
            (line,) = missing([], *lacking, right)
            assert line.startswith(_rights.shown(lacking))
            assert f"itself {_rights.shown([right])} and" in line
    assert missing([], *granted) == []
