"""Admission of remote nodes: what a peer may claim, and that the answer depends on facts alone."""

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import pytest
import yaml
from clustermeshd.kube import objects
from clustermeshd.model.addresses import parse_point, vtep_mac
from clustermeshd.model.errors import Refused
from clustermeshd.plan import remotenodes
from clustermeshd.plan.admission import LocalNetworks, identity
from clustermeshd.plan.remotenodes import Memory, PeerNodes, plan, remote_node_name
from hypothesis import given
from hypothesis import strategies as st

CRDS = Path(__file__).parents[3] / "roles" / "mesh_crds" / "files"
LOCAL = LocalNetworks(
    pod_cidrs=(ip_network("10.1.0.0/16"), ip_network("fd00:1::/48")),
    service_cidrs=(ip_network("10.96.0.0/16"),),
    node_addresses=(ip_address("192.168.0.1"),),
)


def configuration(name="west", created="2026-01-01T00:00:00Z", overlay="Enabled", **rules):
    return objects.RemoteClusterConfiguration(
        metadata=objects.Metadata(name=name, uid=f"uid-{name}", creation_timestamp=created),
        spec=objects.RemoteClusterConfigurationSpec(
            sync_options=objects.SyncOptions(overlay_routing_mode=overlay), import_=objects.ImportRules(**rules)
        ),
    )


def node(name="n1", cidrs=("10.2.0.0/24",), addresses=("192.168.1.1",), created="2026-01-01T00:00:00Z", **annotations):
    return objects.Node(
        metadata=objects.Metadata(
            name=name,
            creation_timestamp=created,
            annotations={k.replace("__", "/"): v for k, v in annotations.items()},
        ),
        spec=objects.NodeSpec(pod_cidrs=tuple(cidrs)),
        status=objects.NodeStatus(
            addresses=tuple(objects.NodeAddress(type="InternalIP", address=a) for a in addresses)
        ),
    )


def peer(*nodes, name="west", created="2026-01-01T00:00:00Z", mirrored=(), listed=True, **rules):
    return PeerNodes(
        configuration(name, created, **rules), f"id-{name}", tuple(nodes) if listed else None, tuple(mirrored)
    )


def owns(made, address):
    return any(prefix.holds(parse_point(address)) for prefix in made.owned)


def test_a_node_becomes_a_remote_node_with_everything_a_data_plane_needs():
    both = node(cidrs=("10.2.0.0/24", "fd00:2::/64"), addresses=("192.168.1.1", "fd77::1"))
    (made,) = plan(LOCAL, [peer(both)])["west"].nodes.values()
    assert made.metadata.name == "west.n1"
    assert made.spec == objects.RemoteNodeSpec(
        cluster_id="id-west",
        cluster_name="west",
        node_name="n1",
        overlay_routing_mode="Enabled",
        addresses=("192.168.1.1", "fd77::1"),
        pod_cidrs=("10.2.0.0/24", "fd00:2::/64"),
        tunnel_addresses=("10.2.0.0", "fd00:2::"),
        vtep_mac=vtep_mac("id-west", "n1"),
    )
    assert [owner.uid for owner in made.metadata.owner_references] == ["uid-west"]


@pytest.mark.parametrize("overlay", ["Enabled", "Disabled"])
def test_a_remote_node_is_written_with_every_field_that_its_definition_requires(overlay):
    described = yaml.safe_load((CRDS / "remotenodes.yaml").read_text())["spec"]["versions"][0]["schema"]
    required = described["openAPIV3Schema"]["properties"]["spec"]["required"]
    of_peer = PeerNodes(configuration(overlay=overlay), "id-west", (node(cidrs=()),))
    (made,) = plan(LOCAL, [of_peer])["west"].nodes.values()
    assert set(required) <= msgspec.json.decode(msgspec.json.encode(made.spec)).keys()


def test_calicos_tunnel_address_is_taken_only_inside_the_nodes_own_prefixes():
    key = "projectcalico.org__IPv4VXLANTunnelAddr"
    (inside,) = plan(LOCAL, [peer(node(**{key: "10.2.0.77"}))])["west"].nodes.values()
    (outside,) = plan(LOCAL, [peer(node(**{key: "10.1.0.77"}))])["west"].nodes.values()
    assert inside.spec.tunnel_addresses == ("10.2.0.77",)
    assert outside.spec.tunnel_addresses == ("10.2.0.0",)


@pytest.mark.parametrize(
    ("cidr", "reason"),
    [
        ("10.1.7.0/24", "OverlapsLocal"),
        ("10.0.0.0/8", "OverlapsLocal"),
        ("10.96.0.0/12", "OverlapsLocal"),
        ("192.168.0.0/24", "OverlapsLocal"),
        ("fd00:1::/64", "OverlapsLocal"),
        ("0.0.0.0/0", "Reserved"),
        ("::/0", "Reserved"),
        ("127.0.0.0/24", "Reserved"),
        ("169.254.169.254/32", "Reserved"),
        ("224.0.0.0/24", "Reserved"),
        ("fe80::/64", "Reserved"),
        ("ff02::/64", "Reserved"),
        ("100.100.100.0/24", "Reserved"),
        ("168.63.129.16/32", "Reserved"),
        ("168.63.128.0/20", "Reserved"),
        ("192.0.0.192/32", "Reserved"),
        ("10.2.0.1/24", "InvalidCIDR"),
        ("::ffff:10.2.0.0/120", "InvalidCIDR"),
        ("x\x1b[31m", "InvalidCIDR"),
    ],
)
def test_a_bad_prefix_is_refused_with_a_reason_and_the_nodes_good_ones_work(cidr, reason):
    made = plan(LOCAL, [peer(node(cidrs=(cidr, "10.2.0.0/24")))])["west"]
    assert [r.reason for r in made.refused] == [reason]
    assert made.nodes["west.n1"].spec.pod_cidrs == ("10.2.0.0/24",)
    assert all(character.isprintable() for character in made.refused.examples[0].message)


@pytest.mark.parametrize(
    "address", ["192.168.0.1", "10.1.0.5", "127.0.0.1", "169.254.169.254", "fe80::1", "nonsense", "0.0.0.0"]
)
def test_a_node_whose_only_address_is_not_its_own_is_not_mirrored(address):
    made = plan(LOCAL, [peer(node(addresses=(address,)))])["west"]
    assert not made.nodes
    assert made.refused.total


def test_the_older_peer_keeps_a_prefix_that_two_peers_claim_and_the_younger_heals():
    old, young = (
        peer(node(), name="zz", created="2025-01-01T00:00:00Z"),
        peer(node(addresses=("192.168.9.9",)), name="aa"),
    )
    plans = plan(LOCAL, [young, old])
    assert plans["zz"].nodes["zz.n1"].spec.pod_cidrs == ("10.2.0.0/24",)
    assert plans["aa"].nodes["aa.n1"].spec.pod_cidrs == ()
    assert [r.reason for r in plans["aa"].refused] == ["OverlapsPeer"]
    assert plan(LOCAL, [young])["aa"].nodes["aa.n1"].spec.pod_cidrs == ("10.2.0.0/24",)


def test_a_peer_that_has_not_listed_keeps_its_mirrored_nodes_and_their_claims():
    before = tuple(plan(LOCAL, [peer(node())])["west"].nodes.values())
    away = peer(name="west", created="2025-01-01T00:00:00Z", mirrored=before, listed=False)
    plans = plan(LOCAL, [away, peer(node(addresses=("192.168.9.9",)), name="east")])
    assert tuple(plans["west"].nodes.values()) == before
    assert plans["east"].nodes["east.n1"].spec.pod_cidrs == ()
    assert owns(plans["west"], "10.2.0.9")


OLDER_THAN_1_33 = LocalNetworks(service_addresses=map(parse_point, ("10.96.0.1", "10.96.0.10", "fd00:96::1")))


@pytest.mark.parametrize(
    ("cidr", "is_ours"),
    [
        ("10.96.0.0/12", True),
        ("10.96.0.1/32", True),
        ("10.96.0.8/29", True),
        ("fd00:96::/112", True),
        ("10.97.0.0/16", False),
        ("10.96.0.16/28", False),
    ],
)
def test_what_holds_the_address_of_a_local_service_is_ours_where_no_service_cidr_is_told(cidr, is_ours):
    made = plan(OLDER_THAN_1_33, [peer(node(cidrs=(cidr,)))])["west"]
    assert [r.reason for r in made.refused] == ["OverlapsLocal"] * is_ours
    assert owns(made, cidr.partition("/")[0]) is not is_ours
    services = plan(OLDER_THAN_1_33, [peer(node(cidrs=()), service_cidrs=(cidr,))])["west"]
    assert [r.reason for r in services.refused] == ["OverlapsLocal"] * is_ours


def test_services_inside_a_known_service_cidr_are_nothing_new():
    known = ip_network("10.96.0.0/16")
    plain = LocalNetworks(service_cidrs=(known,))
    assert LocalNetworks(service_cidrs=(known,), service_addresses=[parse_point("10.96.0.1")]) == plain
    assert LocalNetworks(service_cidrs=(known,), service_addresses=[parse_point("10.97.0.1")]) != plain


def test_import_rules_bound_what_is_admitted():
    rules = {"pod_cidrs": ("10.2.0.0/16",), "node_cidrs": ("192.168.1.0/24",)}
    nodes = [node("a"), node("b", ("10.3.0.0/24",), ("192.168.1.2",)), node("c", ("10.2.5.0/24",), ("192.168.2.3",))]
    made = plan(LOCAL, [peer(*nodes, **rules)])["west"]
    assert {n.spec.node_name: n.spec.pod_cidrs for n in made.nodes.values()} == {"a": ("10.2.0.0/24",), "b": ()}
    assert {r.reason for r in made.refused} == {"NotAllowed"}


def test_owns_knows_pod_prefixes_and_node_addresses_and_nothing_else():
    made = plan(LOCAL, [peer(node())])["west"]
    assert owns(made, "10.2.0.200")
    assert owns(made, "192.168.1.1")
    assert not owns(made, "10.2.1.1")
    assert not owns(made, "10.1.0.1")
    assert not owns(made, "fd00:2::1")


@pytest.mark.parametrize("name", ["", "UPPER", "a_b", "-a", "a..b", "a" * 254, "a/b", "ä", "a b", "x\x1b[31m"])
def test_a_node_whose_name_no_api_server_takes_is_refused_and_claims_nothing(name):
    plans = plan(LOCAL, [peer(node(name), name="west"), peer(node(addresses=("192.168.9.9",)), name="young")])
    made = plans["west"]
    assert not made.nodes
    assert [r.reason for r in made.refused] == ["InvalidName"]
    assert all(c.isprintable() for c in made.refused.examples[0].message)
    assert len(made.refused.examples[0].name) <= 253
    assert plans["young"].nodes["young.n1"].spec.pod_cidrs == ("10.2.0.0/24",)


def test_a_node_has_no_more_prefixes_than_a_remote_node_holds():
    many = tuple(f"10.{64 + i // 256}.{i % 256}.1/32" for i in range(5000))
    made = plan(LOCAL, [peer(node(cidrs=many))])["west"]
    assert len(made.nodes["west.n1"].spec.pod_cidrs) == 4096
    assert [r.reason for r in made.refused] == ["TooManyPrefixes"]


@pytest.mark.parametrize("uid", ["", "x" * 129, "a b", "\x1b[31m"])
def test_what_is_no_uid_identifies_no_cluster(uid):
    with pytest.raises(Refused) as caught:
        identity(uid, "RemoteClusterConfiguration west")
    assert caught.value.reason == "InvalidIdentity"
    identity("6f1e0c9e-5b1c-4f5e-9d55-0d8f3a1c7f10", "RemoteClusterConfiguration west")


def test_a_long_node_name_keeps_a_legal_and_unique_name():
    names = {remote_node_name("west", "n" * 250 + str(i)) for i in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 253 for name in names)


_NETWORKS = st.builds(
    lambda a, b, length: str(ip_network(f"10.{a}.{b}.0/{length}", strict=False)),
    st.integers(0, 6),
    st.integers(0, 255),
    st.sampled_from([15, 16, 20, 24, 25]),
)


@given(st.lists(st.lists(_NETWORKS, max_size=3), max_size=8), st.randoms())
def test_the_plan_depends_on_facts_not_on_their_order_and_never_overlaps(claims, shuffle: random.Random):
    peers = []
    for index, cidrs in enumerate(claims):
        nodes = [node(f"n{i}", (c,), (f"172.16.{index}.{i + 1}",)) for i, c in enumerate(cidrs)]
        shuffle.shuffle(nodes)
        peers.append(peer(*nodes, name=f"p{index}", created=f"2026-01-0{index % 3 + 1}T00:00:00Z"))
    first = plan(LOCAL, peers)
    shuffle.shuffle(peers)
    again = plan(LOCAL, [PeerNodes(p.configuration, p.cluster_id, tuple(reversed(p.nodes))) for p in peers])
    assert {k: v.nodes for k, v in first.items()} == {k: v.nodes for k, v in again.items()}
    admitted = [
        (peer, ip_network(c)) for peer, made in first.items() for n in made.nodes.values() for c in n.spec.pod_cidrs
    ]
    assert len(admitted) == len(set(admitted))
    assert not any(p != q and a.overlaps(b) for i, (p, a) in enumerate(admitted) for q, b in admitted[:i])
    assert not any(a.overlaps(ip_network("10.1.0.0/16")) for _, a in admitted)


CIDRS = st.sampled_from(["10.2.0.0/24", "10.2.1.0/24", "10.2.0.0/16", "10.3.0.0/24", "10.1.0.0/24", "no"])
ADDRESSES = st.sampled_from(["192.168.1.1", "192.168.1.2", "192.168.0.1", "10.2.0.9"])
NODES = st.lists(
    st.builds(
        lambda name, cidr, address: node(name, (cidr,), (address,)),
        st.sampled_from(["n1", "n2", "n3"]),
        CIDRS,
        ADDRESSES,
    ),
    max_size=3,
    unique_by=lambda n: n.metadata.name,
)
CREATED = {"east": "2026-01-01T00:00:00Z", "north": "2026-01-02T00:00:00Z", "west": "2026-01-03T00:00:00Z"}
PEERS = st.builds(
    lambda name, nodes, listed, services: peer(
        *nodes, name=name, created=CREATED[name], listed=listed, service_cidrs=services
    ),
    st.sampled_from(sorted(CREATED)),
    NODES,
    st.sampled_from([True, True, True, False]),
    st.sampled_from([(), ("10.2.0.0/16",)]),
)
LISTED = st.builds(
    lambda name, nodes: peer(*nodes, name=name, created=CREATED[name]), st.sampled_from(sorted(CREATED)), NODES
)
OTHER_LOCAL = LocalNetworks(pod_cidrs=(ip_network("10.3.0.0/16"),))


@given(st.lists(st.tuples(st.sampled_from([LOCAL, LOCAL, OTHER_LOCAL]), PEERS, st.booleans()), max_size=12))
def test_of_all_history_only_what_was_accepted_counts(history):
    """One peer changes, or goes, at a time: plans follow from the facts and what stands, whatever their order."""
    memory, peers = Memory(), {}
    for local, changed, stays in history:
        name = changed.configuration.metadata.name
        peers.pop(name, None)
        if stays:
            peers[name] = changed
        afresh = plan(local, list(reversed(peers.values())), Memory(memory.standing))
        assert plan(local, list(peers.values()), memory) == afresh


def routed(plans):
    return {name: {c for n in made.nodes.values() for c in n.spec.pod_cidrs} for name, made in plans.items()}


@given(st.lists(st.tuples(st.sampled_from([LOCAL, LOCAL, LOCAL, OTHER_LOCAL]), LISTED), min_size=1, max_size=12))
def test_an_accepted_claim_stands_while_it_is_made_and_nobody_has_what_another_has(history):
    memory, peers, before = Memory(), {}, {}
    for local, changed in history:
        peers[changed.configuration.metadata.name] = changed
        now = {name: made.owned for name, made in plan(local, list(peers.values()), memory).items()}
        for name, one in peers.items():
            alone = plan(local, [one])[name].owned
            assert now[name] >= before.get(name, frozenset()) & alone, "what stood and is still claimed"
        claims = [(name, prefix) for name, prefixes in now.items() for prefix in prefixes]
        assert not any(p != q and a.overlaps(b) for i, (p, a) in enumerate(claims) for q, b in claims[:i])
        before = now


def test_an_older_peer_cannot_take_what_a_younger_one_has_not_even_over_a_restart_and_gets_it_when_it_goes():
    young = peer(node(), name="young", created="2026-01-02T00:00:00Z")
    old = {"name": "old", "created": "2026-01-01T00:00:00Z"}
    memory, theirs = Memory(), node("o1", ("10.8.0.0/24",), ("192.168.8.8",))
    first = plan(LOCAL, [young, peer(theirs, **old)], memory)
    assert routed(first) == {"old": {"10.8.0.0/24"}, "young": {"10.2.0.0/24"}}
    for grabbed in ("10.2.0.0/24", "10.2.0.0/16", "10.2.0.128/25"):
        greedy = peer(theirs, node("o2", (grabbed,), ("192.168.8.9",)), **old)
        made = plan(LOCAL, [young, greedy], memory)
        assert routed(made) == {"old": {"10.8.0.0/24"}, "young": {"10.2.0.0/24"}}
        assert [(r.name, r.reason) for r in made["old"].refused] == [("o2", "OverlapsPeer")]
        stored = {name: tuple(one.nodes.values()) for name, one in made.items()}
        restarted = Memory()
        away = peer(name="young", created="2026-01-02T00:00:00Z", mirrored=stored["young"], listed=False)
        known = replace(greedy, mirrored=stored["old"])
        assert routed(plan(LOCAL, [known, away], restarted)) == routed(made)
        assert routed(plan(LOCAL, [known, young], restarted)) == routed(made)
        assert routed(plan(LOCAL, [known, replace(young, mirrored=stored["young"])], Memory())) == routed(made)
    moved = peer(node(cidrs=("10.5.0.0/24",)), name="young", created="2026-01-02T00:00:00Z")
    assert routed(plan(LOCAL, [moved, greedy], memory))["old"] == {"10.8.0.0/24", "10.2.0.128/25"}
    back = plan(LOCAL, [young, greedy], memory)
    assert routed(back)["young"] == set(), "now it stands with the other one"
    assert [r.reason for r in back["young"].refused] == ["OverlapsPeer"]


@pytest.mark.parametrize("how", ["another configuration", "another cluster", "local"])
def test_a_claim_stands_for_the_cluster_that_made_it_and_never_against_ours(how):
    young = peer(node(), name="young", created="2026-01-02T00:00:00Z")
    old = peer(node(addresses=("192.168.8.8",)), name="old", created="2026-01-01T00:00:00Z")
    memory = Memory()
    stored = tuple(plan(LOCAL, [young], memory)["young"].nodes.values())
    after = Memory()
    young = replace(young, mirrored=stored)
    if how == "another configuration":
        meta = msgspec.structs.replace(young.configuration.metadata, uid="made anew")
        young = replace(young, configuration=msgspec.structs.replace(young.configuration, metadata=meta))
    elif how == "another cluster":
        young = replace(young, cluster_id="replaced")
    local = LocalNetworks(pod_cidrs=(ip_network("10.2.0.0/25"),)) if how == "local" else LOCAL
    for known in (memory, after):
        made = routed(plan(local, [young, old], known))
        assert made == {"young": set(), "old": set() if how == "local" else {"10.2.0.0/24"}}


def test_what_stands_of_a_peer_that_is_not_read_gives_way_to_what_is_ours_and_to_narrower_rules():
    two = node("n1", ("10.2.0.0/24", "10.3.0.0/24")), node("n2", ("10.4.0.0/24",), ("192.168.1.2",))
    stored = tuple(plan(LOCAL, [peer(*two)])["west"].nodes.values())
    ours = LocalNetworks(pod_cidrs=(ip_network("10.2.0.0/16"),), node_addresses=(ip_address("192.168.1.2"),))
    made = plan(ours, [peer(mirrored=stored, listed=False)])["west"]
    assert {n.metadata.name: n.spec.pod_cidrs for n in made.nodes.values()} == {"west.n1": ("10.3.0.0/24",)}
    assert made.nodes["west.n1"].spec.tunnel_addresses == ()
    assert not owns(made, "10.2.0.9")
    ruled = plan(LOCAL, [peer(mirrored=stored, listed=False, pod_cidrs=("10.4.0.0/16",))])["west"]
    assert {n.metadata.name: n.spec.pod_cidrs for n in ruled.nodes.values()} == {
        "west.n1": (),
        "west.n2": ("10.4.0.0/24",),
    }


def test_a_changed_node_plans_its_own_cluster_and_those_whose_obstacle_it_was(monkeypatch):
    planned = []
    made = remotenodes._plan_one
    monkeypatch.setattr(
        remotenodes, "_plan_one", lambda *a: planned.append(a[2].configuration.metadata.name) or made(*a)
    )
    memory = Memory()
    old = peer(node(), name="old", created="2026-01-01T00:00:00Z")
    young = peer(node(addresses=("192.168.1.9",)), name="young", created="2026-01-02T00:00:00Z")
    far = peer(node(cidrs=("10.7.0.0/24",), addresses=("192.168.7.9",)), name="far")
    for _ in range(2):  # what was accepted of the one that lost stands from the first time on
        assert [r.reason for r in plan(LOCAL, [old, young, far], memory)["young"].refused] == ["OverlapsPeer"]
    assert planned.count("far") == 1
    planned.clear()
    heartbeat = peer(node(), name="old", created="2026-01-01T00:00:00Z")
    plan(LOCAL, [heartbeat, young, far], memory)
    assert planned == []
    annotated = peer(node(other__note="x"), name="old", created="2026-01-01T00:00:00Z")
    plan(LOCAL, [annotated, young, far], memory)
    assert planned == ["old", "old"]  # alone and beside the others; it claims what it claimed
    planned.clear()
    moved = peer(node(cidrs=("10.4.0.0/24",)), name="old", created="2026-01-01T00:00:00Z")
    assert plan(LOCAL, [moved, young, far], memory)["young"].refused.total == 0
    assert planned == ["old"]
