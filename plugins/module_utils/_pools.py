# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Calico's masquerade and peers that the underlay routes to: one disabled IPPool per remote pod CIDR. Pure functions.

Calico masquerades what leaves its pools for anywhere but a pool. A disabled pool hands out no address and takes a
destination out of that masquerade; it is what the pages on unencapsulated federation ask for.
"""

from __future__ import annotations

import ipaddress

from ansible_collections.clustermesh.core.plugins.module_utils._objects import is_ours
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import Step, plan_present

# The first that is served. Where both are, v3 is Calico's aggregated API, which has no server-side apply.
VERSIONS = ("crd.projectcalico.org/v1", "projectcalico.org/v3")
PEER = "clustermesh.io/remote-cluster"
SMALLEST = {4: 26, 6: 122}


def pool(peer, cidr, version):
    """The disabled pool for one CIDR of a peer."""
    network = ipaddress.ip_network(cidr, strict=False)
    text = str(network)
    slug = text.replace(".", "-").replace(":", "-").replace("/", "-")
    return {
        "apiVersion": version,
        "kind": "IPPool",
        "metadata": {"name": f"clustermesh-{peer}-{slug}", "labels": {PEER: peer}},
        "spec": {
            "cidr": text,
            "disabled": True,
            "natOutgoing": False,
            "disableBGPExport": True,
            "ipipMode": "Never",
            "vxlanMode": "Never",
            "blockSize": max(SMALLEST[network.version], network.prefixlen),
            "nodeSelector": "all()",
        },
    }


def as_stored(peer, configurations):
    """A peer as far as pools go: without a kubeconfig it stays as its stored RemoteClusterConfiguration has it."""
    if peer.get("kubeconfig"):
        return peer
    options = ((configurations.get(peer["name"]) or {}).get("spec") or {}).get("syncOptions") or {}
    return {"name": peer["name"], "overlay": options.get("overlayRoutingMode") or "Enabled"}


def plan(peers, stored, version, prune=True):
    """Steps before and steps after the peers' own objects: pools to make, and ours that no peer needs any more.

    ``stored`` are all pools of the cluster. A CIDR that a pool of somebody else covers gets none. A peer without
    pod_cidrs is not part of this run, and keeps its pools while the underlay routes to it.
    """
    by_name = {item["metadata"]["name"]: item for item in stored}
    foreign = [_network(item) for item in stored if not is_ours(item)]
    wanted, kept = [], set()
    for peer in peers:
        if peer.get("overlay") != "Disabled":
            continue
        if not peer.get("pod_cidrs"):
            kept.add(peer["name"])
        uncovered = (c for c in peer.get("pod_cidrs") or () if not any(_covers(other, c) for other in foreign))
        wanted += [pool(peer["name"], cidr, version) for cidr in uncovered]
    makes = [plan_present(item, by_name.get(item["metadata"]["name"])) for item in wanted]
    names = {item["metadata"]["name"] for item in wanted}
    gone = [
        Step("delete", None, item)
        for name, item in sorted(by_name.items())
        if is_ours(item) and name not in names and item["metadata"]["labels"].get(PEER) not in kept
    ]
    return makes, gone if prune else []


def unknown(peers):
    """Names of peers that need pools and of whose pods no CIDR is known."""
    return [
        p["name"] for p in peers if p.get("overlay") == "Disabled" and p.get("kubeconfig") and not p.get("pod_cidrs")
    ]


def _network(item):
    return ipaddress.ip_network(item["spec"]["cidr"], strict=False)


def _covers(pool_network, cidr):
    network = ipaddress.ip_network(cidr, strict=False)
    return network.version == pool_network.version and network.subnet_of(pool_network)
