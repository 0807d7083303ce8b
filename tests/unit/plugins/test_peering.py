"""Which objects a cluster's peers need, and which go."""

from __future__ import annotations

import pytest
from ansible_collections.clustermesh.core.plugins.module_utils import _objects, _peering, _pools, _reconcile

KUBECONFIG = "current-context: x\n"


def present(*names: str, label: bool = True) -> tuple[dict, dict]:
    """Secrets and configurations as stored, by name."""
    made = {
        n: (_peering.access_secret({"name": n, "kubeconfig": KUBECONFIG}), _peering.configuration({"name": n}))
        for n in names
    }
    if label:
        made = {n: tuple(map(_objects.owned, pair)) for n, pair in made.items()}
    return {pair[0]["metadata"]["name"]: pair[0] for pair in made.values()}, {n: pair[1] for n, pair in made.items()}


def readers(*names: str) -> list[dict]:
    return [_objects.owned(item) for item in _peering.reader(names)]


def actions(steps) -> dict[str, str]:
    return {f"{s.item['kind']}/{s.item['metadata']['name']}": s.action for s in steps}


def plan(peers: list[dict], names=(), **options):
    return _peering.plan(peers, *present(*names), readers(*names) if names else [None, None], **options)


def taken_over(peers: list[dict], *stored) -> list[dict]:
    return _reconcile.foreign(_peering.plan(peers, *stored)[0])


def test_a_new_peer_gets_everything_and_may_be_read_before_it_is_configured():
    steps, results = plan([{"name": "oslo", "kubeconfig": KUBECONFIG}])
    assert [s.item["kind"] for s in steps] == ["Role", "RoleBinding", "Secret", "RemoteClusterConfiguration"]
    assert {s.action for s in steps} == {"create"}
    assert results == [{"name": "oslo", "action": "created"}]
    assert _reconcile.foreign(steps) == []


def test_a_known_peer_is_left_alone():
    steps, results = plan([{"name": "oslo", "kubeconfig": KUBECONFIG}], ["oslo"])
    assert set(actions(steps).values()) == {"keep"}
    assert results == [{"name": "oslo", "action": "unchanged"}]


def test_a_new_token_updates_the_secret_alone():
    steps, *_ = plan([{"name": "oslo", "kubeconfig": "other"}], ["oslo"])
    assert [name for name, action in actions(steps).items() if action != "keep"] == ["Secret/mesh-access-oslo"]


def test_who_is_not_listed_is_pruned_configuration_first():
    steps, *_ = plan([{"name": "oslo", "kubeconfig": KUBECONFIG}], ["oslo", "rome"])
    gone = [name for name, action in actions(steps).items() if action == "delete"]
    assert gone == ["RemoteClusterConfiguration/rome", "Secret/mesh-access-rome"]


def test_a_peer_outside_of_the_run_is_kept_and_stays_readable():
    steps, results = plan([{"name": "oslo", "kubeconfig": KUBECONFIG}, {"name": "rome"}], ["oslo", "rome"])
    assert set(actions(steps).values()) == {"keep"}
    assert {"name": "rome", "action": "kept"} in results


def test_an_unknown_peer_outside_of_the_run_is_skipped():
    steps, results = plan([{"name": "rome"}])
    assert steps == []
    assert results == [{"name": "rome", "action": "skipped"}]


def test_strangers_objects_would_be_taken_over():
    secrets, configurations = present("oslo", label=False)
    peers = [{"name": "oslo", "kubeconfig": KUBECONFIG}]
    assert taken_over(peers, secrets, configurations, [None, None]) == [*secrets.values(), *configurations.values()]


def test_a_reader_of_somebody_else_would_be_taken_over():
    theirs = _peering.reader(["oslo"])
    assert taken_over([{"name": "oslo", "kubeconfig": KUBECONFIG}], {}, {}, theirs) == theirs
    assert taken_over([], {}, {}, theirs) == []


def test_a_pool_of_somebody_else_with_our_name_would_be_taken_over():
    theirs = _pools.pool("oslo", "10.2.0.0/16", _pools.VERSIONS[0])
    theirs["spec"]["cidr"] = "10.7.0.0/16"
    peers = [{"name": "oslo", "overlay": "Disabled", "pod_cidrs": ["10.2.0.0/16"]}]
    makes, _ = _pools.plan(peers, [theirs], _pools.VERSIONS[0])
    assert _reconcile.foreign(makes) == [theirs]


def definition(group: str, **labels: str) -> dict:
    meta = {"name": f"remoteclusterconfigurations.{group}", "labels": labels}
    return {"kind": "CustomResourceDefinition", "metadata": meta, "spec": {"group": group}}


@pytest.mark.parametrize(
    ("stored", "is_taken"),
    [
        (definition("clustermesh.io"), False),
        (definition("projectcalico.org"), True),
        (definition("projectcalico.org", **{_objects.PART: _objects.OWNER}), False),
    ],
)
def test_definitions_of_ours_are_ours_whoever_applied_them(stored, is_taken):
    wanted = {**stored, "spec": {**stored["spec"], "scope": "Cluster"}}
    assert bool(_reconcile.foreign([_reconcile.plan_present(wanted, stored)])) is is_taken


def test_what_is_to_be_there_by_whomever_stays_as_it_is():
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "here"}}
    assert _reconcile.plan_some(namespace, namespace).action == "keep"
    assert _objects.is_ours(_reconcile.plan_some(namespace, None).wanted)


def test_strangers_objects_are_never_pruned():
    secrets, configurations = present("rome", label=False)
    assert [s for s in _peering.plan([], secrets, configurations, [None, None])[0] if s.action == "delete"] == []


def test_the_last_peer_takes_the_reader_along():
    steps, *_ = plan([], ["oslo"])
    assert set(actions(steps).values()) == {"delete"}
    assert len(steps) == 4
