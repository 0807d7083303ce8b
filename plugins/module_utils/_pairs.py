# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which clusters are peers of which. Pure functions."""

from __future__ import annotations

from itertools import combinations


class BadPair(ValueError):
    """A pair that cannot be."""


def mesh_pairs(clusters, explicit=None):
    """All pairs of a full mesh, or the explicit ones: sorted [{id, a, b}] with a < b."""
    names = sorted(set(clusters))
    wanted = combinations(names, 2) if explicit is None else map(tuple, explicit)
    found = set()
    for pair in wanted:
        unknown = [name for name in pair if name not in names]
        if unknown:
            raise BadPair(f"pair {'-'.join(map(str, pair))}: no cluster {unknown[0]}; there are {', '.join(names)}")
        if len(pair) != 2 or pair[0] == pair[1]:
            raise BadPair(f"pair {'-'.join(map(str, pair))}: two different clusters make a pair")
        found.add(tuple(sorted(pair)))
    return [{"id": f"{a}--{b}", "a": a, "b": b} for a, b in sorted(found)]


def peers_of(pairs, cluster):
    """Names of a cluster's peers."""
    others = (pair["b"] if pair["a"] == cluster else pair["a"] for pair in pairs if cluster in (pair["a"], pair["b"]))
    return sorted(others)


def peer_specs(names, hosts, overlay="Enabled"):
    """Options of module peering for peers: credentials from this run where it has them, admission from the inventory."""
    return [_peer_spec(name, hosts[name], overlay) for name in names]


def _peer_spec(name, host, overlay):
    spec = {"name": name, "overlay": overlay}
    kubeconfig = (host.get("mesh_access_result") or {}).get("kubeconfig")
    if kubeconfig:
        spec["kubeconfig"] = kubeconfig
    if host.get("mesh_admit"):
        spec["admit"] = host["mesh_admit"]
    return spec


def node_names(inventory_names, hosts, cluster):
    """Names of a cluster's Nodes that the inventory lists."""
    ours = ((name, hosts[name]) for name in inventory_names)
    return sorted(host.get("mesh_node_name") or name for name, host in ours if host.get("mesh_cluster") == cluster)
