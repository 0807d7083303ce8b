# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What must hold before clusters are meshed. Pure functions over the facts of clusters.

A finding is {id, cluster, status, message, hint, text}; status is error or warning, text is the line for people.
"""

from __future__ import annotations

import ipaddress
import re
from itertools import combinations

MINIMUM = (1, 27)
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def finding(check, cluster, message, hint, status="error"):
    """One finding."""
    text = f"{check}: {message}; {hint}"
    return {"id": check, "cluster": cluster, "status": status, "message": message, "hint": hint, "text": text}


def facts_of(name, version, system_namespace, nodes, services, pod_cidrs=()):
    """The facts of a cluster from what its API server said."""
    specs = [node.get("spec") or {} for node in nodes]
    pods = {cidr for spec in specs for cidr in spec.get("podCIDRs") or [spec.get("podCIDR")] if cidr}
    addresses = {
        address["address"]
        for node in nodes
        for address in (node.get("status") or {}).get("addresses") or ()
        if address["type"] == "InternalIP"
    }
    return {
        "name": name,
        "reachable": True,
        "version": version,
        "cluster_id": (system_namespace or {}).get("metadata", {}).get("uid", ""),
        "pod_cidrs": sorted(pod_cidrs or pods),
        "service_cidrs": sorted(services),
        "node_addresses": sorted(addresses),
        "node_count": len(nodes),
        "denied": [],
    }


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
    if facts["denied"]:
        message = f"these rights are missing: {', '.join(facts['denied'])}"
        found.append(finding("rights", name, message, "use a kubeconfig with administrative rights"))
    if not facts["pod_cidrs"]:
        message = "no Node has podCIDRs: the addresses of pods are unknown"
        hint = "set mesh_pod_cidrs of this cluster when its CNI hands out addresses by itself"
        found.append(finding("pod-cidrs", name, message, hint, "warning"))
    return found


def findings(clusters):
    """What is wrong with clusters, each alone and every pair of them."""
    found = [item for facts in clusters for item in own_findings(facts)]
    present = sorted((facts for facts in clusters if facts["reachable"]), key=lambda facts: facts["name"])
    for left, right in combinations(present, 2):
        found += _pair(left, right)
    return found


def _pair(left, right):
    names = f"{left['name']},{right['name']}"
    if left["cluster_id"] and left["cluster_id"] == right["cluster_id"]:
        message = f"{left['name']} and {right['name']} are one cluster: both have id {left['cluster_id']}"
        return [finding("cluster-id", names, message, "give one of them another mesh_kubeconfig or mesh_context")]
    found = []
    kinds = (
        ("pod_cidrs", "pod_cidrs", "pods"),
        ("pod_cidrs", "service_cidrs", "services"),
        ("pod_cidrs", "node_addresses", "nodes"),
    )
    for a, b in ((left, right), (right, left)):
        for mine, other, what in kinds:
            if mine == other and a is right:
                continue  # said once already
            found += [_overlap(names, a, x, b, y, what) for x, y in _overlapping(a[mine], b[other])]
    return found


def _overlap(names, a, x, b, y, what):
    message = f"pods of {a['name']} ({x}) overlap {what} of {b['name']} ({y})"
    hint = f"renumber one of the two: pod CIDRs are set by the controller manager of {a['name']} (--cluster-cidr) or its CNI"
    return finding("cidr-overlap", names, message, hint)


def _overlapping(left, right):
    theirs = [ipaddress.ip_network(text, strict=False) for text in right]
    for text in left:
        mine = ipaddress.ip_network(text, strict=False)
        for other in theirs:
            if mine.version == other.version and mine.overlaps(other):
                yield str(mine), str(other)
                break
