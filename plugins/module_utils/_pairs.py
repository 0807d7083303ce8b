# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which clusters are peers of which. Pure functions."""

from __future__ import annotations

from itertools import combinations


class BadPair(ValueError):
    """A pair that cannot be."""


def mesh_pairs(clusters, explicit=None):
    """All pairs of a full mesh, or the explicit ones: sorted [{id, a, b, overlay}] with a < b; overlay only where a pair says it.

    An explicit pair is a list of two names, or {pair: [a, b], overlay: Enabled or Disabled}.
    """
    names = sorted(set(clusters))
    wanted = combinations(names, 2) if explicit is None else explicit
    found = {}
    for item in wanted:
        pair, overlay = _pair(item, names)
        if found.setdefault(pair, overlay) != overlay:
            raise BadPair(f"pair {'-'.join(pair)}: listed twice with different overlay")
    return [
        {"id": f"{a}--{b}", "a": a, "b": b, **({"overlay": o} if o else {})} for (a, b), o in sorted(found.items())
    ]


def _pair(item, names):
    overlay = None
    if isinstance(item, dict):
        overlay = item.get("overlay")
        surplus = sorted(set(item) - {"pair", "overlay"})
        if surplus or "pair" not in item:
            raise BadPair(
                f"pair {item.get('pair', item)}: takes pair and overlay, not {', '.join(surplus) or 'only these'}"
            )
        item = item["pair"]
    label = "-".join(map(str, item))
    unknown = [name for name in item if name not in names]
    if unknown:
        raise BadPair(f"pair {label}: no cluster {unknown[0]}; there are {', '.join(names)}")
    if len(item) != 2 or item[0] == item[1]:
        raise BadPair(f"pair {label}: two different clusters make a pair")
    if overlay not in (None, "Enabled", "Disabled"):
        raise BadPair(f"pair {label}: overlay is Enabled or Disabled, not {overlay}")
    return tuple(sorted(item)), overlay


def peers_of(pairs, cluster):
    """Names of a cluster's peers."""
    others = (pair["b"] if pair["a"] == cluster else pair["a"] for pair in pairs if cluster in (pair["a"], pair["b"]))
    return sorted(others)


def peer_specs(pairs, cluster, hosts, overlay="Enabled"):
    """Options of module peering for a cluster's peers: credentials from this run where it has them, admission from the inventory."""
    of_pair = {
        pair["a"] if pair["b"] == cluster else pair["b"]: pair.get("overlay")
        for pair in pairs
        if cluster in (pair["a"], pair["b"])
    }
    return [_peer_spec(name, hosts[name], of_pair[name] or overlay) for name in peers_of(pairs, cluster)]


def _peer_spec(name, host, overlay):
    spec = {"name": name, "overlay": overlay}
    kubeconfig = (host.get("mesh_access_result") or {}).get("kubeconfig")
    if kubeconfig:
        spec["kubeconfig"] = kubeconfig
    known = (host.get("mesh_preflight_result") or {}).get("facts") or {}
    pod_cidrs = host.get("mesh_pod_cidrs") or known.get("pod_cidrs")
    if pod_cidrs:
        spec["pod_cidrs"] = pod_cidrs
    if host.get("mesh_admit"):
        spec["admit"] = host["mesh_admit"]
    return spec


def node_names(inventory_names, hosts, cluster):
    """Names of a cluster's Nodes that the inventory lists."""
    ours = ((name, hosts[name]) for name in inventory_names)
    return sorted(host.get("mesh_node_name") or name for name, host in ours if host.get("mesh_cluster") == cluster)


def credentials(peers, hosts):
    """Peer -> digest of the kubeconfig that role mesh_access got for it in this run; without those outside of the run."""
    results = {name: (hosts[name].get("mesh_access_result") or {}).get("credential") for name in peers}
    return {name: digest for name, digest in results.items() if digest}


def waiting(peers, hosts, cluster, nodes=()):
    """Who does not use the new credentials of a cluster yet: peers not in sync by them, own nodes not restarted with them."""
    behind = [name for name in peers if cluster in _outdated(hosts[name], cluster)]
    own = [name for name in nodes if hosts[name].get("mesh_cluster") == cluster]
    return behind + sorted(name for name in own if not hosts[name].get("mesh_daemon_running"))


def _outdated(host, cluster):
    # a peer that did not get so far has not answered, which is not a yes
    return (host.get("mesh_validate_read") or {}).get("outdated", [cluster])
