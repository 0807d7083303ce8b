"""A topology is completed sensibly, or refused with the field and what would be accepted."""

import pytest
import yaml
from clustermesh_lab.errors import InvalidTopology
from clustermesh_lab.topology import Topology, preset_names


def parse(text: str) -> Topology:
    return Topology.parse(yaml.safe_load(text), "lab.yaml")


@pytest.mark.parametrize("name", ["demo", "tiny", "three", "v6", "dual", "calico"])
def test_presets_are_valid_and_survive_being_recorded(name):
    topology = Topology.preset(name)
    assert Topology.from_json(topology.to_json()) == topology
    assert name in preset_names()


def test_node_names_repeat_across_the_clusters_of_the_demo():
    assert [(c.name, c.nodes) for c in Topology.preset("demo").clusters] == [
        ("east", ("n1", "n2")),
        ("west", ("n1", "n2")),
    ]


def test_addresses_follow_from_the_position_and_the_lab():
    cluster = Topology.preset("dual").clusters[1]
    assert cluster.pods == ("10.2.0.0/16", "fd00:1:2::/48")
    assert cluster.services == ("10.102.0.0/16", "fd00:2:2::/112")
    assert [str(s) for s in cluster.subnets(3)] == ["10.131.2.0/24", "fd00:83:2::/64"]
    assert cluster.service_address(10) == ("10.102.0.10", "fd00:2:2::a")


def test_a_cluster_needs_no_more_than_a_name():
    (cluster,) = parse("clusters: {one: }").clusters
    assert (cluster.nodes, cluster.cni, cluster.proxy, cluster.dns) == (("n1", "n2"), "ptp", "nftables", True)


def test_flags_are_taken_with_or_without_dashes():
    (cluster,) = parse("clusters: {one: {flags: {kube-apiserver: {--v: 4, profiling: true}}}}").clusters
    assert cluster.flags == {"kube-apiserver": {"v": "4", "profiling": "true"}}


def test_options_of_calico_are_completed():
    (cluster,) = parse("clusters: {one: {cni: calico, calico: {encapsulation: None}}}").clusters
    assert cluster.calico == {"encapsulation": "None", "ipam": "podcidr"}
    assert Topology.from_json(Topology((cluster,)).to_json()).clusters == (cluster,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "lab.yaml: a mapping is needed"),
        ("clusters: {}", "lab.yaml: clusters: a mapping of cluster names is needed"),
        ("clusters: {a: {nods: 2}}", "clusters.a: unknown field 'nods'; there are nodes"),
        ("clusters: {A: }", "'A' is no usable name"),
        ("clusters: {a: {nodes: -1, families: [ipv5]}}", "'ipv5' is neither ipv4 nor ipv6"),
        ("clusters: {a: {families: []}}", "clusters.a.families: a list of"),
        ("clusters: {a: {nodes: [n1, n1]}}", "a node is named twice"),
        ("clusters: {a: {nodes: true}}", "clusters.a.nodes: a number up to 200 or a list of names"),
        ("clusters: {a: {nodes: 300}}", "clusters.a.nodes: a number up to 200"),
        ("clusters: {a: {cni: calicoo}}", "clusters.a.cni: 'calicoo' is none of bridge, calico, none, ptp"),
        ("clusters: {a: {calico: {ipam: calico}}}", "clusters.a.calico: options of Calico, but cni is ptp"),
        ("clusters: {a: {cni: calico, calico: {ipam: dhcp}}}", "clusters.a.calico.ipam: 'dhcp' is none of podcidr"),
        ("clusters: {a: {cni: calico, calico: {mtu: 9}}}", "clusters.a.calico: unknown field 'mtu'; there are encap"),
        ("clusters: {a: {cni: calico, families: [ipv6]}}", "clusters.a.families: the lab's Calico has ipv4 only"),
        ("clusters: {a: {proxy: ipvs}}", "clusters.a.proxy: 'ipvs' is none of nftables, iptables, none"),
        ("clusters: {a: {dns: maybe}}", "clusters.a.dns: true or false is needed"),
        ("clusters: {a: {pods: 10.0.0.1/16}}", "clusters.a.pods: 10.0.0.1/16 has host bits set"),
        ("clusters: {a: {pods: 'fd00::/48'}}", "stands where a network of ipv4 belongs"),
        ("clusters: {a: {pods: [10.0.0.0/16, 10.9.0.0/16]}}", "one network for each of ipv4 is needed"),
        ("clusters: {a: {flags: {kubectl: {v: 1}}}}", "clusters.a.flags: unknown field 'kubectl'"),
        ("clusters: {a: {pods: 10.7.0.0/16}, b: {pods: 10.7.128.0/17}}", "clusters.b.pods 10.7.128.0/17 overlaps"),
        ("clusters: {a: {services: 10.1.0.0/24}}", "clusters.a.services 10.1.0.0/24 overlaps clusters.a.pods"),
    ],
)
def test_what_breaks_a_rule_is_named(text, said):
    with pytest.raises(InvalidTopology) as error:
        parse(text)
    assert said in str(error.value)
    assert error.value.exit_code == 2


def test_a_missing_file_and_an_unknown_preset_are_told_apart(tmp_path):
    with pytest.raises(InvalidTopology, match="No such file"):
        Topology.find(str(tmp_path / "x.yaml"))
    with pytest.raises(InvalidTopology, match="no preset 'big'; there are calico, demo"):
        Topology.find("big")


def test_what_is_not_yaml_is_said_in_one_line(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a: [")
    with pytest.raises(InvalidTopology) as error:
        Topology.find(str(file))
    assert "not YAML" in str(error.value)
    assert "\n" not in str(error.value)
