# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What must hold before clusters are meshed. Pure functions over the facts of clusters.

A finding is {id, cluster, status, message, hint, text}; status is error or warning, text is the line for people.
"""

from __future__ import annotations

import ipaddress
import re

from ansible_collections.clustermesh.core.plugins.module_utils._overlap import overlaps

MINIMUM = (1, 27)
SKEW = 3  # minor versions that kubelets may be older than their API server
CLOCK_S = 5.0  # tokens and certificates are judged by clocks
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def finding(check, cluster, message, hint, status="error"):
    """One finding."""
    text = f"{check}: {message}; {hint}"
    return {"id": check, "cluster": cluster, "status": status, "message": message, "hint": hint, "text": text}


def facts_of(name, version, system_namespace, nodes, services, pod_cidrs=(), network=None):
    """The facts of a cluster from what its API server said; ``network`` as from network_of."""
    network = network or {"cni": "unknown", "encapsulation": "unknown", "pools": [], "calico": {}}
    specs = [node.get("spec") or {} for node in nodes]
    pods = {cidr for spec in specs for cidr in spec.get("podCIDRs") or [spec.get("podCIDR")] if cidr}
    by_node = {node["metadata"]["name"]: _addresses(node) for node in nodes}
    kubelets = {((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion") or version for node in nodes}
    return {
        "name": name,
        "reachable": True,
        "version": version,
        "kubelet_versions": sorted(kubelets),
        "cluster_id": (system_namespace or {}).get("metadata", {}).get("uid", ""),
        "cni": network["cni"],
        "encapsulation": network["encapsulation"],
        "calico": network["calico"],
        "pod_cidrs": sorted(pod_cidrs) or _collapsed({*pods, *network["pools"]}),
        "service_cidrs": sorted(services),
        "node_addresses": sorted({address for addresses in by_node.values() for address in addresses}),
        "nodes": by_node,
        "node_count": len(nodes),
        "denied": [],
        "vouched": True,
        "clock_offset": 0.0,
    }


def _addresses(node):
    addresses = (node.get("status") or {}).get("addresses") or ()
    return [address["address"] for address in addresses if address["type"] == "InternalIP"]


def _collapsed(texts):
    """The fewest prefixes that say the same."""
    networks = [ipaddress.ip_network(text, strict=False) for text in texts]
    families = ([n for n in networks if n.version == version] for version in (4, 6))
    return [str(n) for family in families for n in ipaddress.collapse_addresses(family)]


DAEMON_SETS = {
    "calico-node": "calico", "cilium": "cilium", "kube-flannel-ds": "flannel", "kube-flannel": "flannel",
    "antrea-agent": "antrea", "weave-net": "weave", "kube-router": "kube-router", "kindnet": "kindnet",
    "aws-node": "aws-vpc", "ovnkube-node": "ovn-kubernetes", "canal": "calico",
}  # fmt: skip


def network_of(pools, felix, daemon_sets):
    """The CNI, its encapsulation and its pools, from Calico's objects and the names of DaemonSets."""
    names = [DAEMON_SETS[name] for name in daemon_sets if name in DAEMON_SETS]
    if pools is None:
        return {"cni": names[0] if names else "unknown", "encapsulation": "unknown", "pools": [], "calico": {}}
    used = [pool.get("spec") or {} for pool in pools if not (pool.get("spec") or {}).get("disabled")]
    modes = {_encapsulation(spec) for spec in used}
    return {
        "cni": "calico",
        "encapsulation": ",".join(sorted(modes)) or "none",
        "pools": [spec["cidr"] for spec in used],
        "calico": {key: felix[key] for key in FELIX if key in felix},
    }


# what holds where FelixConfiguration does not say
DEFAULTS = {
    "routeSource": "CalicoIPAM",
    "vxlanEnabled": True,  # by the pools, which are of VXLAN in all clusters that are compared
    "vxlanMTU": 0,  # by the interface
    "vxlanPort": 4789,
    "vxlanVNI": 4096,
}
FELIX = ("bpfEnabled", "routeTableRanges", *DEFAULTS)


def _encapsulation(spec):
    if spec.get("vxlanMode", "Never") != "Never":
        return "vxlan"
    return "ipip" if spec.get("ipipMode", "Never") != "Never" else "none"


def unreachable(name, message):
    """The facts of a cluster that did not answer."""
    return {"name": name, "reachable": False, "message": message}


def own_findings(facts):
    """What is wrong with one cluster alone."""
    name, found = facts["name"], []
    if not NAME.fullmatch(name):
        hint = "rename the host in the inventory: at most 63 lower-case letters, digits and dashes"
        found.append(finding("name", name, f"{name} cannot name a RemoteClusterConfiguration", hint))
    if not facts["reachable"]:
        hint = "is mesh_kubeconfig (or mesh_api_server) right, and can this machine reach the API server?"
        return [*found, finding("reachable", name, facts["message"], hint)]
    version = tuple(int(number) for number in re.findall(r"\d+", facts["version"])[:2])
    if version < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        found.append(
            finding("version", name, f"Kubernetes {facts['version']} is too old", f"upgrade to {wanted} or newer")
        )
    found += [*_skew(facts, version), *_clock(facts), *_calico(facts)]
    if not facts["vouched"]:
        hint = "set mesh_ca_file, or mesh_ca_file_for_peers and mesh_ca_file_for_nodes; the system's roots are never asked"
        found.append(finding("authority", name, f"peers and nodes cannot verify the API server of {name}", hint))
    if facts["denied"]:
        message = f"these rights are missing: {', '.join(facts['denied'])}"
        found.append(finding("rights", name, message, "grant them, or use a kubeconfig with administrative rights"))
    if not facts["pod_cidrs"]:
        message = "no Node has podCIDRs: the addresses of pods are unknown"
        hint = "set mesh_pod_cidrs of this cluster when its CNI hands out addresses by itself"
        found.append(finding("pod-cidrs", name, message, hint, "warning"))
    return found


def _skew(facts, version):
    for text in facts.get("kubelet_versions") or ():
        kubelet = tuple(int(number) for number in re.findall(r"\d+", text)[:2])
        if kubelet > version or kubelet[1] + SKEW < version[1]:
            message = f"kubelets of {facts['name']} run {text}, its API server {facts['version']}"
            hint = f"Kubernetes supports kubelets of the same version and up to {SKEW} older"
            yield finding("version-skew", facts["name"], message, hint, "warning")


def _clock(facts):
    offset = facts.get("clock_offset") or 0.0
    if abs(offset) > CLOCK_S:
        message = f"the API server's clock is {offset:+.0f} s off that of this machine"
        yield finding("clock", facts["name"], message, "run NTP on both: tokens are judged by clocks", "warning")


def _calico(facts):
    """What of Calico's settings stands in the way; see docs/coexistence.md."""
    name, settings = facts["name"], {**DEFAULTS, **(facts.get("calico") or {})}
    where = f"in FelixConfiguration default of {name}"
    if (settings["vxlanVNI"], settings["vxlanPort"]) == OURS:
        message = f"Calico's VXLAN has VNI {OURS[0]} and port {OURS[1]}, which are the mesh's"
        yield finding("calico-vxlan", name, message, f"change vxlanVNI or vxlanPort {where}, or set --vni or --port")
    for span in _spans(settings.get("routeTableRanges")):
        if span["min"] <= TABLE <= span["max"]:
            message = f"Calico takes routing tables {span['min']} to {span['max']}, and the mesh {TABLE}"
            yield finding("calico-tables", name, message, f"narrow routeTableRanges {where}")
    if settings.get("bpfEnabled"):
        message = "Calico in eBPF mode masquerades before the mesh can exempt"
        hint = "set mesh_overlay Disabled for its pairs, so that it gets disabled IPPools, or add these by hand"
        yield finding("calico-ebpf", name, message, hint, "warning")


OURS = (4097, 4790)
TABLE = 4097


def _spans(ranges):
    return [span for span in ranges or () if isinstance(span, dict) and {"min", "max"} <= set(span)]


def _unaligned(clusters):
    """Settings of Calico's VXLAN that differ between clusters; its own mesh would need them equal.

    A finding names the clusters that are not as most are; all of them where no value is that of most.
    """
    with_vxlan = [facts for facts in clusters if "vxlan" in (facts.get("encapsulation") or "")]
    for key, default in DEFAULTS.items():
        groups = {}
        for facts in sorted(with_vxlan, key=lambda facts: facts["name"]):
            groups.setdefault((facts.get("calico") or {}).get(key, default), []).append(facts["name"])
        if len(groups) < 2:
            continue
        sides = sorted(groups.items(), key=lambda side: -len(side[1]))
        is_tied = len(sides[0][1]) == len(sides[1][1])
        named = sorted(name for _value, names in sides[0 if is_tied else 1 :] for name in names)
        said = ", ".join(f"{value} in {_few(names)}" for value, names in sides)
        hint = f"make {key} of FelixConfiguration default equal if you also use Calico's own cluster mesh; this mesh does not need it"
        yield finding("calico-alignment", ",".join(named), f"Calico's {key} is {said}", hint, "warning")


def _few(names):
    return ", ".join(names) if len(names) <= FEW else f"{', '.join(names[:FEW])} and {len(names) - FEW} more"


FEW = 3


def findings(clusters):
    """What is wrong with clusters, each alone and every pair of them."""
    found = [item for facts in clusters for item in own_findings(facts)]
    present = [facts for facts in clusters if facts["reachable"]]
    return [*found, *_twins(present), *_clashes(present), *_unaligned(present)]


def _twins(clusters):
    """Clusters of one id: one cluster under two names, of which one is looked at further."""
    known, found = {}, []
    for facts in sorted(clusters, key=lambda facts: facts["name"]):
        first = known.setdefault(facts["cluster_id"], facts["name"]) if facts["cluster_id"] else facts["name"]
        if first != facts["name"]:
            message = f"{first} and {facts['name']} are one cluster: both have id {facts['cluster_id']}"
            hint = "give one of them another mesh_kubeconfig or mesh_context"
            found.append(finding("cluster-id", f"{first},{facts['name']}", message, hint))
    return found


RANGES = (("pods", "pod_cidrs"), ("services", "service_cidrs"), ("nodes", "node_addresses"))


def _clashes(clusters):
    """Overlapping ranges, the first of each two clusters and kinds with the number of the others."""
    ids = {facts["name"]: facts["cluster_id"] or facts["name"] for facts in clusters}
    ranges = ((facts["name"], kind, text) for facts in clusters for kind, key in RANGES for text in facts[key])
    grouped = {}
    for sides in overlaps(ranges):
        (a, kind_a, _n), (b, kind_b, _m) = sorted(sides, key=lambda side: (_ORDER[side[1]], side[0]))
        if ids[a] != ids[b]:  # one cluster under two names is said once
            grouped.setdefault((a, kind_a, b, kind_b), []).append(sides)
    return [_overlap(*key, sides) for key, sides in sorted(grouped.items())]


_ORDER = {"pods": 0, "services": 1, "nodes": 2}
_HINTS = {
    "pods": "renumber one of the two: pod CIDRs are set by the controller manager of {a} (--cluster-cidr) or its CNI",
    "nodes": "nodes of a mesh need addresses of their own: renumber {a} or {b}, or choose other ones (--underlay-cidr)",
}


def _overlap(a, kind_a, b, kind_b, clashes):
    network = {side[0]: side[2] for side in clashes[0]}
    more = f", and {len(clashes) - 1} more" if len(clashes) > 1 else ""
    message = f"{kind_a} of {a} ({network[a]}) overlap {kind_b} of {b} ({network[b]}){more}"
    return finding("cidr-overlap", ",".join(sorted((a, b))), message, _HINTS[kind_a].format(a=a, b=b))
