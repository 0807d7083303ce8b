"""Pairs, preflight, kubeconfigs and tables."""

from __future__ import annotations

import base64
import ipaddress
import json
from datetime import UTC, datetime, timedelta
from itertools import combinations
from random import Random
from time import process_time

import pytest
import yaml
from ansible_collections.clustermesh.core.plugins.module_utils import _access, _info, _overlap, _pairs, _preflight
from clustermeshd.plan.overlay_status import SILENT_S


def facts(name: str, **changes) -> dict:
    base = {"reachable": True, "version": "v1.34.1", "cluster_id": name, "pod_cidrs": ["10.1.0.0/16"], "denied": []}
    node = f"192.0.2.{ord(name[-1])}"
    return {
        **base,
        "name": name,
        "vouched": True,
        "service_cidrs": ["10.96.0.0/16"],
        "node_addresses": [node],
        **changes,
    }


def ids(*clusters: dict) -> list[str]:
    return [finding["id"] for finding in _preflight.findings(clusters)]


def test_a_full_mesh_has_every_pair_once():
    pairs = _pairs.mesh_pairs(["c", "a", "b", "a"])
    assert [pair["id"] for pair in pairs] == ["a--b", "a--c", "b--c"]
    assert _pairs.peers_of(pairs, "b") == ["a", "c"]


@pytest.mark.parametrize("pair", [["a", "x"], ["a", "a"], ["a"], ["a", "b", "c"]])
def test_a_pair_that_cannot_be_is_named(pair):
    with pytest.raises(_pairs.BadPair, match="pair a"):
        _pairs.mesh_pairs(["a", "b", "c"], [pair])


def test_explicit_pairs_are_a_set():
    assert [p["id"] for p in _pairs.mesh_pairs(["a", "b", "c"], [["b", "a"], ["a", "b"]])] == ["a--b"]


@pytest.mark.parametrize(
    "item",
    [{"pair": ["a", "b"], "overlay": "On"}, {"pair": ["a", "b"], "mode": 1}, {"overlay": "Enabled"}, {"pair": ["a"]}],
)
def test_a_pair_says_nothing_but_who_and_overlay(item):
    with pytest.raises(_pairs.BadPair):
        _pairs.mesh_pairs(["a", "b"], [item])


def test_a_pair_with_two_minds_is_refused():
    with pytest.raises(_pairs.BadPair, match="twice"):
        _pairs.mesh_pairs(["a", "b"], [["a", "b"], {"pair": ["b", "a"], "overlay": "Disabled"}])


def test_the_overlay_of_a_pair_wins_on_both_sides():
    pairs = _pairs.mesh_pairs(["a", "b", "c"], [{"pair": ["b", "a"], "overlay": "Disabled"}, ["a", "c"]])
    hosts = {"a": {}, "b": {}, "c": {}}
    assert [(s["name"], s["overlay"]) for s in _pairs.peer_specs(pairs, "a", hosts)] == [
        ("b", "Disabled"),
        ("c", "Enabled"),
    ]
    assert [(s["name"], s["overlay"]) for s in _pairs.peer_specs(pairs, "b", hosts)] == [("a", "Disabled")]


ONE_WAY = {
    "pair": ["b", "a"],
    "readers": ["b"],
    "admit": {"b": {"namespaces": ["shop"]}},
    "labels": {"tier": "test"},
}


def test_of_a_pair_of_one_direction_only_the_reader_has_a_peer():
    pairs = _pairs.mesh_pairs(["a", "b", "c"], [ONE_WAY, ["a", "c"]])
    hosts = {"a": {"mesh_admit": {"namespaces": ["all"], "podCIDRs": ["10.1.0.0/16"]}}, "b": {}, "c": {}}
    assert (_pairs.peers_of(pairs, "a"), _pairs.peers_of(pairs, "b")) == (["c"], ["a"])
    assert (_pairs.peers_of(pairs, "a", "readers"), _pairs.peers_of(pairs, "b", "readers")) == (["b", "c"], [])
    assert [s["name"] for s in _pairs.peer_specs(pairs, "a", hosts)] == ["c"]
    assert _pairs.peer_specs(pairs, "b", hosts) == [
        {
            "name": "a",
            "overlay": "Disabled",
            "admit": {"namespaces": ["shop"], "podCIDRs": ["10.1.0.0/16"]},
            "labels": {"tier": "test"},
        }
    ]
    peer = {"peer": "a", "ready": True, "connected": True, "synced": True, "overlay": "Disabled", "reason": ""}
    row = {**peer, "services": 1, "endpoint_slices": 1, "nodes": 0, "refused": 0}
    (shown, _) = _info.pair_rows(pairs, {"b": {"peers": [row], "nodes": []}})
    assert (shown["ready"], shown["connected"], shown["overlay"]) == (True, "yes", "Disabled")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"readers": []}, "readers is empty"),
        ({"readers": ["c"]}, "readers names c"),
        ({"readers": "b"}, "readers is a list"),
        ({"overlay": "Enabled"}, "one direction only has no overlay"),
        ({"admit": {"c": {}}}, "admit names c"),
        ({"admit": {"b": ["shop"]}}, "admit of b is a dict"),
        ({"labels": "tier"}, "labels is a dict"),
        ({"direction": "both"}, "not direction"),
    ],
)
def test_what_a_pair_says_wrongly_is_named(change, words):
    with pytest.raises(_pairs.BadPair, match=words):
        _pairs.mesh_pairs(["a", "b", "c"], [{**ONE_WAY, **change}])


def test_peers_outside_of_the_run_have_no_kubeconfig():
    hosts = {"a": {"mesh_access_result": {"kubeconfig": "k"}, "mesh_admit": {"podCIDRs": ["x"]}}, "b": {}, "c": {}}
    assert _pairs.peer_specs(_pairs.mesh_pairs(hosts), "c", hosts) == [
        {"name": "a", "overlay": "Enabled", "kubeconfig": "k", "admit": {"podCIDRs": ["x"]}},
        {"name": "b", "overlay": "Enabled"},
    ]


def test_a_node_without_a_tunnel_address_is_known_to_stay_outside():
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    outside = {**status, "problems": [{"reason": "NoTunnelAddress", "object": "n2", "message": ""}]}
    items = [{"metadata": {"name": "n1"}, "status": status}, {"metadata": {"name": "n2"}, "status": outside}]
    assert [row["tunnelled"] for row in _info.node_rows(items, ["n3"], RENEWED)] == [True, False, False]


def test_ready_pods_with_addresses_of_their_own_are_a_sample():
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}]}
    box = [{"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 9153}]}]

    def pod(name, spec=None, **status):
        meta = {"name": name, "namespace": "default"}
        return {"metadata": meta, "spec": {"containers": box, **(spec or {})}, "status": {**ready, **status}}

    pods = [pod("host", {"hostNetwork": True}), pod("ill", conditions=[]), pod("a"), pod("new", podIPs=[]), pod("b")]
    assert _info.sample_of(iter([*pods, pod("c")]), 1) == [
        {"name": "default/a", "node": "", "address": "10.1.0.2", "port": 9153},
        {"name": "default/a", "node": "", "address": "fd00::2", "port": 9153},
    ]
    assert [target["name"] for target in _info.sample_of(pods, 9)] == ["default/a"] * 2 + ["default/b"] * 2
    many = [pod(f"{n}{number}", {"nodeName": n}) for n in ("n1", "n2") for number in range(3)]
    assert [target["name"] for target in _info.sample_of([*many, *many], 3)][::2] == [
        "default/n10",
        "default/n20",
        "default/n11",
    ]


def test_a_cluster_without_any_agent_routes_to_nobody_and_says_so():
    peer = {"peer": "b", "overlay": "Enabled", "nodes": 2}
    (row,) = _info.without_agents({"peers": [peer], "nodes": []})
    assert (row["ready"], row["reason"]) == (False, "no agent has reported from any node: nothing routes to b")
    for peers, nodes in (([{**peer, "overlay": "Disabled"}], []), ([{**peer, "nodes": 0}], []), ([peer], [{}])):
        assert _info.without_agents({"peers": peers, "nodes": nodes}) == []


def test_services_may_overlap_services_and_nothing_else_does():
    assert ids(facts("a"), facts("b", pod_cidrs=["10.2.0.0/16"])) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"pod_cidrs": ["10.1.7.0/24"]},
        {"pod_cidrs": ["10.2.0.0/16"], "service_cidrs": ["10.1.0.0/24"]},
        {"pod_cidrs": ["10.2.0.0/16"], "node_addresses": ["10.1.2.3"]},
        {"pod_cidrs": ["192.0.2.0/24"]},
    ],
)
def test_overlaps_are_found_in_both_directions(changes):
    a, b = facts("a"), facts("b", **changes)
    assert ids(a, b) == ["cidr-overlap"]
    assert ids(b, a) == ["cidr-overlap"]


def clash(a: tuple[str, str, str], b: tuple[str, str, str]) -> bool:
    overlap = ipaddress.ip_network(a[2]).overlaps(ipaddress.ip_network(b[2]))
    return a[0] != b[0] and b[1] in _overlap.CLASHES[a[1]] and overlap


def test_overlaps_are_found_as_by_comparing_every_pair():
    random = Random(7)
    kinds, hosts = ("pods", "services", "nodes"), range(12)
    ranges = []
    for host in hosts:
        for kind in kinds:
            for _ in range(3):
                length = 32 if kind == "nodes" else random.randint(20, 30)
                address = ipaddress.ip_address((10 << 24) + random.randrange(1 << 15))
                ranges.append((f"c{host}", kind, str(ipaddress.ip_network(f"{address}/{length}", strict=False))))
    wanted = {frozenset(pair) for pair in combinations(ranges, 2) if clash(*pair)}
    found = [frozenset((side[0], side[1], str(side[2])) for side in sides) for sides in _overlap.overlaps(ranges)]
    assert len(wanted) > 20
    assert set(found) == wanted
    assert len(found) == len(set(found))


def test_a_thousand_clusters_are_compared_in_about_the_time_of_a_sort():
    own = {"service_cidrs": ["172.16.0.0/16"], "node_addresses": []}
    clusters = [facts(f"c{n}", pod_cidrs=[f"10.{n // 4}.{n % 4 * 64}.0/18"], **own) for n in range(1000)]
    clusters.append(facts("d", pod_cidrs=["10.7.64.128/25"], **own))
    before = process_time()
    (found,) = _preflight.findings(clusters)
    assert process_time() - before < 2
    assert found["cluster"] == "c29,d"


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"kubelet_versions": ["v1.30.2"]}, "version-skew"),
        ({"kubelet_versions": ["v1.35.0"]}, "version-skew"),
        ({"clock_offset": -8.0}, "clock"),
        ({"calico": {"vxlanVNI": 4097, "vxlanPort": 4790}}, "calico-vxlan"),
        ({"calico": {"routeTableRanges": [{"min": 4000, "max": 5000}]}}, "calico-tables"),
        ({"calico": {"bpfEnabled": True}}, "calico-ebpf"),
    ],
)
def test_what_a_cluster_runs_can_stand_in_the_way(changes, finding):
    assert [found["id"] for found in _preflight.own_findings({**facts("a"), **changes})] == [finding]


def unaligned(*settings: dict, encapsulation: str = "vxlan") -> list[dict]:
    """What is said of clusters a, b, c... with these settings of Calico."""
    clusters = [
        facts(chr(97 + n), pod_cidrs=[f"10.{n + 1}.0.0/16"], encapsulation=encapsulation, calico=calico)
        for n, calico in enumerate(settings)
    ]
    found = _preflight.findings(clusters)
    assert {(item["id"], item["status"]) for item in found} <= {("calico-alignment", "warning")}
    return found


@pytest.mark.parametrize("odd", [0, 1, 3])
def test_of_calico_clusters_that_differ_the_odd_one_is_named(odd):
    settings = [{"vxlanPort": 4790} if n == odd else {} for n in range(4)]
    (found,) = unaligned(*settings)
    same = ", ".join("abcd".replace("abcd"[odd], ""))
    assert (found["cluster"], found["message"]) == (
        "abcd"[odd],
        f"Calico's vxlanPort is 4789 in {same}, 4790 in {'abcd'[odd]}",
    )


def test_where_no_setting_is_that_of_most_all_clusters_are_named():
    (found,) = unaligned({"vxlanPort": 4790}, {})
    assert (found["cluster"], found["message"]) == ("a,b", "Calico's vxlanPort is 4790 in a, 4789 in b")
    (found,) = unaligned(*[{"vxlanMTU": mtu} for mtu in (1450, 1450, 8950, 8950, 1400)])
    assert found["cluster"] == "a,b,c,d,e"


def test_of_many_clusters_a_few_are_spelled_out():
    (found,) = unaligned(*[{}] * 9, {"vxlanVNI": 7})
    assert found["message"] == "Calico's vxlanVNI is 4096 in a, b, c and 6 more, 7 in j"


@pytest.mark.parametrize(
    ("setting", "same", "other"),
    [
        ("routeSource", "CalicoIPAM", "WorkloadIPs"),
        ("vxlanEnabled", True, False),
        ("vxlanMTU", 0, 1400),
        ("vxlanPort", 4789, 4799),
        ("vxlanVNI", 4096, 4099),
    ],
)
def test_a_default_that_is_spelled_out_is_no_difference(setting, same, other):
    assert unaligned({setting: same}, {}) == []
    (found,) = unaligned({setting: other}, {})
    assert setting in found["message"]
    assert unaligned({setting: other}, {}, encapsulation="ipip") == []


def test_the_cni_is_told_by_its_objects():
    specs = [{"cidr": "10.1.0.0/16", "vxlanMode": "Always"}, {"cidr": "10.9.0.0/16", "disabled": True}]
    felix = {"vxlanPort": 4789, "logSeverityScreen": "Info"}
    assert _preflight.network_of([{"spec": spec} for spec in specs], felix, ["calico-node"]) == {
        "cni": "calico",
        "encapsulation": "vxlan",
        "pools": ["10.1.0.0/16"],
        "calico": {"vxlanPort": 4789},
    }
    assert _preflight.network_of(None, {}, ["node-exporter", "kube-flannel-ds"])["cni"] == "flannel"


def test_families_do_not_overlap():
    assert ids(facts("a"), facts("b", pod_cidrs=["fd00::/48"])) == []


def test_one_cluster_twice_is_said_once():
    assert ids(facts("a"), facts("b", cluster_id="a")) == ["cluster-id"]


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"version": "v1.26.9"}, "version"),
        ({"denied": ["write secrets"]}, "rights"),
        ({"vouched": False}, "authority"),
        ({"pod_cidrs": []}, "pod-cidrs"),
        ({"reachable": False, "message": "no answer"}, "reachable"),
        ({"name": "no_label"}, "name"),
    ],
)
def test_a_cluster_alone_can_be_wrong(changes, finding):
    (found,) = _preflight.own_findings({**facts("a"), **changes})
    assert found["id"] == finding
    assert found["hint"] in found["text"]


def test_a_newer_major_version_is_enough():
    assert ids(facts("a", version="v2.0.1+vendor.3")) == []


def test_a_kubeconfig_is_yaml_whatever_the_values():
    text = _access.kubeconfig("mesh", "https://[fd00::1]:6443", "PEM\n", 'to"ken', "api.example")
    config = yaml.safe_load(text)
    assert config["users"][0]["user"] == {"token": 'to"ken'}
    assert config["clusters"][0]["cluster"]["tls-server-name"] == "api.example"
    assert config["clusters"][0]["cluster"]["certificate-authority-data"] == "UEVNCg=="


def token(**claims) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{payload}.signature"


def bound(uid: str) -> dict:
    return {"kubernetes.io": {"serviceaccount": {"uid": uid}}}


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        ("", "missing"),
        ("no token", "missing"),
        (token(**bound("u")), "missing"),
        (token(exp=2000, **bound("another")), "sa_recreated"),
        (token(exp=1100, **bound("u")), "expiring"),
        (token(exp=1101, **bound("u")), ""),
    ],
)
def test_a_requested_token_is_renewed_for_a_reason(kept, reason):
    assert _access.renewal(kept, "u", now=1000, renew_before=100) == reason


def test_peers_can_read_no_secret_and_write_nothing():
    verbs = {verb for rule in _access.REMOTE_RULES for verb in rule["verbs"]}
    resources = {resource for rule in _access.REMOTE_RULES for resource in rule["resources"]}
    assert verbs == {"get", "list", "watch"}
    assert not resources & {"secrets", "configmaps", "*"}


def test_the_controller_has_secrets_only_by_name():
    rules = [*_access.CONTROLLER_RULES, *_access.LEASE_RULES, *_access.AGENT_RULES]
    assert not [rule for rule in rules if "secrets" in rule["resources"] or "*" in rule["resources"]]


LOSSY = {"cluster": "b", "node": "n1", "state": "degraded", "reason": "Loss"}


@pytest.mark.parametrize(
    ("paths", "shown", "is_ready"),
    [
        ({"reachable": 1, "unknown": 1}, "1/2", True),
        ({"degraded": 2, "problems": [LOSSY]}, "2/2", True),
        ({"unknown": 2}, "0/2", False),
        ({"reachable": 0, "unknown": 0}, "0/0", True),
        ({}, "", True),
    ],
)
def test_a_node_is_cut_off_while_no_remote_node_answers(paths, shown, is_ready):
    status = {"conditions": [{"type": "Ready", "status": "True"}], "paths": paths}
    (row,) = _info.node_rows([{"metadata": {"name": "n1"}, "status": status}], [], RENEWED)
    assert (row["paths"], row["ready"], bool(row["reason"])) == (shown, is_ready, not is_ready)
    (row,) = _info.node_rows([{"metadata": {"name": "n1"}, "status": status}], [], RENEWED, answers=False)
    assert row["ready"]  # nobody is there who could answer


@pytest.mark.parametrize(
    ("age_s", "wanted", "is_ready", "reason"),
    [
        (600, ["n1"], True, ""),
        (960, ["n1"], False, "its agent has not been heard for 16 min"),
        (960, [], True, "its agent has not been heard for 16 min"),  # nodes that are down are no trouble of the mesh
    ],
)
def test_an_agent_that_is_not_heard_is_told_and_a_wanted_one_is_not_ready(age_s, wanted, is_ready, reason):
    heard = (RENEWED - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"conditions": [{"type": "Ready", "status": "True"}], "lastHeartbeatTime": heard}
    (row,) = _info.node_rows([{"metadata": {"name": "n1"}, "status": status}], wanted, RENEWED)
    assert (row["ready"], row["reason"]) == (is_ready, reason)


def test_a_node_that_is_cut_off_and_silent_says_both():
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "paths": {"unknown": 2},
        "lastHeartbeatTime": (RENEWED - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    (row,) = _info.node_rows([{"metadata": {"name": "n1"}, "status": status}], [], RENEWED)
    assert row["ready"] is False
    assert row["reason"].split("; ") == [
        "its agent has not been heard for 60 min",
        "no probe to a remote node has been answered yet",
    ]


def test_the_collection_and_the_daemon_give_an_agent_the_same_time():
    assert _info.AGENT_SILENT_S == SILENT_S


def test_a_node_without_agent_is_a_row_that_says_so():
    (row,) = _info.node_rows([], ["n1"], RENEWED)
    assert (row["node"], row["ready"]) == ("n1", False)
    lines = _info.table({"peers": [], "nodes": [row]})
    assert "no agent has reported" in lines[1]


LEASE = {"spec": {"holderIdentity": "n1_2f8a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}}
RENEWED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("lease", "silent_s", "reason"),
    [
        (LEASE, 70, ""),
        (LEASE, -30, ""),
        (LEASE, 80, "it has not been heard for 80 s"),
        ({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}, 0, "no controller leads"),
        ({}, 0, "no controller leads"),
    ],
)
def test_a_controller_that_is_gone_makes_a_mesh_that_is_not_well(lease, silent_s, reason):
    (row,) = _info.controller_rows(lease, RENEWED + timedelta(seconds=silent_s))
    assert row["reason"].startswith(reason)
    assert bool(row["reason"]) == bool(reason)
    answer = {"controllers": [row], "peers": [], "nodes": []}
    assert _info.is_complete(answer, []) is not bool(reason)
    assert any(reason in line for line in _info.table(answer))


def test_without_a_lease_nothing_is_said_of_the_controller():
    assert _info.controller_rows(None, RENEWED) == []
