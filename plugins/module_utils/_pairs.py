# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which clusters are peers of which. Pure functions."""

from __future__ import annotations

from itertools import combinations


class BadPair(ValueError):
    """A pair that cannot be."""


KEYS = ("pair", "overlay", "readers", "admit", "labels")


def mesh_pairs(clusters, explicit=None):
    """All pairs of a full mesh, or the explicit ones: sorted [{id, a, b}] with a < b, and what a pair says of itself.

    An explicit pair is a list of two names, or {pair: [a, b]} with some of overlay (Enabled, Disabled), readers (which of
    the two read the other one), admit (reader -> spec.import) and labels (of the RemoteClusterConfigurations).
    """
    names = sorted(set(clusters))
    wanted = combinations(names, 2) if explicit is None else explicit
    found = {}
    for item in wanted:
        pair, said = _pair(item, names)
        if found.setdefault(pair, said) != said:
            differing = sorted(key for key in {*found[pair], *said} if found[pair].get(key) != said.get(key))
            raise BadPair(f"pair {'-'.join(pair)}: listed twice with different {', '.join(differing)}")
    return [{"id": f"{a}--{b}", "a": a, "b": b, **said} for (a, b), said in sorted(found.items())]


def _pair(item, names):
    said = {}
    if isinstance(item, dict):
        surplus = sorted(set(item) - set(KEYS))
        if surplus or "pair" not in item:
            problem = f"not {', '.join(surplus)}" if surplus else "and needs pair"
            raise BadPair(f"pair {item.get('pair', item)}: takes {', '.join(KEYS)}, {problem}")
        said = {key: value for key, value in item.items() if key != "pair" and value is not None}
        item = item["pair"]
    label = "-".join(map(str, item))
    unknown = [name for name in item if name not in names]
    if unknown:
        raise BadPair(f"pair {label}: no cluster {unknown[0]}; there are {', '.join(names)}")
    if len(item) != 2 or item[0] == item[1]:
        raise BadPair(f"pair {label}: two different clusters make a pair")
    return tuple(sorted(item)), _checked(label, item, said)


def _checked(label, pair, said):
    if said.get("overlay") not in (None, "Enabled", "Disabled"):
        raise BadPair(f"pair {label}: overlay is Enabled or Disabled, not {said['overlay']}")
    for key, kind in (("readers", list), ("admit", dict), ("labels", dict)):
        if key in said and not isinstance(said[key], kind):
            raise BadPair(f"pair {label}: {key} is a {kind.__name__}, not {said[key]!r}")
    for key in ("readers", "admit"):
        other = [name for name in said.get(key) or () if name not in pair]
        if other:
            raise BadPair(f"pair {label}: {key} names {other[0]}, which is none of the two")
    wrong = [name for name, rules in (said.get("admit") or {}).items() if not isinstance(rules, dict)]
    if wrong:
        raise BadPair(f"pair {label}: admit of {wrong[0]} is a dict, not {said['admit'][wrong[0]]!r}")
    if "readers" not in said:
        return said
    readers = sorted(set(said["readers"]))
    if not readers:
        raise BadPair(f"pair {label}: readers is empty; leave the pair out")
    if len(readers) == 1 and said.get("overlay") == "Enabled":
        raise BadPair(
            f"pair {label}: one direction only has no overlay, since the nodes of {readers[0]} are not known there"
        )
    return {**said, "readers": readers, **({"overlay": "Disabled"} if len(readers) == 1 else {})}


def _readers(pair):
    return pair.get("readers") or (pair["a"], pair["b"])


def _other(pair, cluster):
    return pair["b"] if pair["a"] == cluster else pair["a"]


def _pairs_of(pairs, cluster):
    return [pair for pair in pairs if cluster in (pair["a"], pair["b"])]


def peers_of(pairs, cluster, who="read"):
    """Names of a cluster's peers: those that it reads, those that read it (``readers``), or ``all`` of them."""
    chosen = {
        "read": lambda pair: cluster in _readers(pair),
        "readers": lambda pair: _other(pair, cluster) in _readers(pair),
        "all": lambda pair: True,
    }[who]
    return sorted(_other(pair, cluster) for pair in _pairs_of(pairs, cluster) if chosen(pair))


def peer_specs(pairs, cluster, hosts, overlay="Enabled"):
    """Options of module peering for the peers that a cluster reads: credentials from this run where it has them, admission
    from the inventory."""
    of_peer = {_other(pair, cluster): pair for pair in _pairs_of(pairs, cluster)}
    others = (hosts[cluster].get("mesh_access_others_result") or {}).get("results") or ()
    outside = {result["item"]: result.get("kubeconfig") for result in others}
    return [
        _peer_spec(cluster, name, hosts[name], of_peer[name], overlay, outside.get(name))
        for name in peers_of(pairs, cluster)
    ]


def _peer_spec(cluster, name, host, pair, overlay, kubeconfig):
    spec = {"name": name, "overlay": pair.get("overlay") or overlay}
    kubeconfig = (host.get("mesh_access_result") or {}).get("kubeconfig") or kubeconfig
    if kubeconfig:
        spec["kubeconfig"] = kubeconfig
    known = (host.get("mesh_preflight_result") or {}).get("facts") or {}
    pod_cidrs = host.get("mesh_pod_cidrs") or known.get("pod_cidrs")
    if pod_cidrs:
        spec["pod_cidrs"] = pod_cidrs
    admit = {**(host.get("mesh_admit") or {}), **((pair.get("admit") or {}).get(cluster) or {})}
    if admit:
        spec["admit"] = admit
    if pair.get("labels"):
        spec["labels"] = pair["labels"]
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
    """Who does not use the new credentials of a cluster yet: peers not in sync by them, own nodes that did not get them.

    Workloads are no matter of nodes: they have tokens of their pods.
    """
    behind = [name for name in peers if cluster in _outdated(hosts[name], cluster)]
    if hosts[cluster].get("mesh_daemon_mode") == "kubernetes":
        return behind
    own = [name for name in nodes if hosts[name].get("mesh_cluster") == cluster]
    return behind + sorted(name for name in own if "restarted" not in (hosts[name].get("mesh_daemon_switched") or {}))


def _outdated(host, cluster):
    # a peer that did not get so far has not answered, which is not a yes
    return (host.get("mesh_validate_read") or {}).get("outdated", [cluster])


_TURNS = 4  # each is a task of every node, and seconds where a node does not answer


def probe_targets(names, hosts, node, forks):
    """Whom a node is to reach on the underlay: {address, targets: {address: name}, turn, turns, left_out}.

    Nodes reach each other only while they probe at the same time, which no more of them do than there are forks: a sample of each
    cluster probes, those of as many clusters as there are forks in one turn. ``left_out`` are clusters beyond the last turn.
    """
    clusters = {}
    for name in sorted(names):
        address = underlay_address(hosts, name)
        if address:
            clusters.setdefault(hosts[name]["mesh_cluster"], {})[name] = address
    probing = list(clusters)[: _TURNS * forks] if forks > 1 else []
    if forks == 2 and len(probing) % 2:
        probing.pop()  # alone in its turn it would have nobody
    turns = -(-len(probing) // forks)
    left_out = [c for c in clusters if c not in probing] if len(clusters) > 1 else []
    found = {"address": "", "targets": {}, "turn": 0, "turns": turns, "left_out": left_out}
    mine = hosts[node].get("mesh_cluster")
    if mine not in probing:
        return found
    turn = probing.index(mine) % turns
    together = probing[turn::turns]
    sample = {c: dict(list(clusters[c].items())[: max(1, forks // len(together))]) for c in together}
    address = sample[mine].get(node, "")
    if not address:
        return found
    others = {a: name for c, nodes in sample.items() if c != mine for name, a in nodes.items()}
    targets = {a: name for a, name in others.items() if (":" in a) == (":" in address)}
    return {**found, "address": address, "targets": targets, "turn": turn}


def underlay_address(hosts, name):
    """The InternalIP of a node, as preflight of its cluster read it; empty when it is not known."""
    host = hosts[name]
    cluster = host.get("mesh_cluster")
    facts = (hosts.get(cluster, {}).get("mesh_preflight_result") or {}).get("facts") or {}
    return next(iter((facts.get("nodes") or {}).get(host.get("mesh_node_name") or name) or ()), "")


def outside(pairs, cluster, hosts, run, overlay="Enabled"):
    """Peers of a cluster that are not part of the run: how to reach them, and the options of their half of the pair.

    Without those that were asked for their access in this run and gave none.
    """
    left_out = hosts[cluster].get("mesh_access_left_out") or ()
    names = [name for name in peers_of(pairs, cluster, "all") if name not in run and name not in left_out]
    return [{**how, "peers": peer_specs(pairs, how["name"], hosts, overlay)} for how in reach(names, hosts)]


def absent(cluster_names, hosts, cluster, run, left):
    """Peers that a cluster is not to be judged by after a run: they failed in it, did not answer, or were left out.

    ``run`` are the clusters that it began with, ``left`` those that have not failed since.
    """
    known = {name: (hosts[name].get("mesh_preflight_result") or {}).get("facts") or {} for name in cluster_names}
    silent = {name for name, facts in known.items() if facts.get("reachable") is False}
    return sorted({*run} - {*left} | silent | {*(hosts[cluster].get("mesh_access_left_out") or ())})


def pods(peers, hosts, failed):
    """Pods of peers by name of the peer; none of peers that are not well, and of nodes that failed."""
    found = {}
    for name in peers:
        seen = hosts[name].get("mesh_validate_result") or {}
        if seen.get("ready"):
            down = node_names(failed, hosts, name)
            found[name] = [pod for pod in seen.get("pods") or () if pod.get("node") not in down]
    return found


def reach(names, hosts):
    """How to reach clusters: options of modules by name, empty where the inventory says nothing."""
    return [_reach(name, hosts[name]) for name in names]


def _reach(name, host):
    keys = {
        "kubeconfig": "mesh_kubeconfig",
        "context": "mesh_context",
        "host": "mesh_api_server",
        "api_key": "mesh_api_token",
        "ca_cert": "mesh_ca_file",
        "server": "mesh_server_for_peers",
        "server_ca_cert": "mesh_ca_file_for_peers",
        "tls_server_name": "mesh_tls_server_name",
    }
    how = {option: host.get(variable) or "" for option, variable in keys.items()}
    return {"name": name, **how, "pod_cidrs": host.get("mesh_pod_cidrs") or []}
