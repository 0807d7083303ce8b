"""Which objects a cluster's peers need, and which go."""

from __future__ import annotations

from ansible_collections.clustermesh.core.plugins.module_utils import _objects, _peering

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


def test_a_new_peer_gets_everything_and_may_be_read_before_it_is_configured():
    steps, results, conflicts = plan([{"name": "oslo", "kubeconfig": KUBECONFIG}])
    assert [s.item["kind"] for s in steps] == ["Role", "RoleBinding", "Secret", "RemoteClusterConfiguration"]
    assert {s.action for s in steps} == {"create"}
    assert (results, conflicts) == ([{"name": "oslo", "action": "created"}], [])


def test_a_known_peer_is_left_alone():
    steps, results, _ = plan([{"name": "oslo", "kubeconfig": KUBECONFIG}], ["oslo"])
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
    steps, results, _ = plan([{"name": "oslo", "kubeconfig": KUBECONFIG}, {"name": "rome"}], ["oslo", "rome"])
    assert set(actions(steps).values()) == {"keep"}
    assert {"name": "rome", "action": "kept"} in results


def test_an_unknown_peer_outside_of_the_run_is_skipped():
    steps, results, _ = plan([{"name": "rome"}])
    assert steps == []
    assert results == [{"name": "rome", "action": "skipped"}]


def test_strangers_objects_are_conflicts_unless_adopted():
    secrets, configurations = present("oslo", label=False)
    peers = [{"name": "oslo", "kubeconfig": KUBECONFIG}]
    assert len(_peering.plan(peers, secrets, configurations, [None, None])[2]) == 2
    assert _peering.plan(peers, secrets, configurations, [None, None], adopt=True)[2] == []


def test_a_reader_of_somebody_else_is_a_conflict():
    foreign = _peering.reader(["oslo"])
    peers = [{"name": "oslo", "kubeconfig": KUBECONFIG}]
    assert _peering.plan(peers, {}, {}, foreign)[2] == foreign
    assert _peering.plan(peers, {}, {}, foreign, adopt=True)[2] == []
    assert _peering.plan([], {}, {}, foreign)[2] == []


def test_strangers_objects_are_never_pruned():
    secrets, configurations = present("rome", label=False)
    assert [s for s in _peering.plan([], secrets, configurations, [None, None])[0] if s.action == "delete"] == []


def test_the_last_peer_takes_the_reader_along():
    steps, *_ = plan([], ["oslo"])
    assert set(actions(steps).values()) == {"delete"}
    assert len(steps) == 4
