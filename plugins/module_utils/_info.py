# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How a mesh is, as rows for people and dashboards. Pure functions."""

from __future__ import annotations

import re
from datetime import datetime

from ansible_collections.clustermesh.core.plugins.module_utils._access import CONTROLLER, REMOTE
from ansible_collections.clustermesh.core.plugins.module_utils._objects import NAMESPACE
from ansible_collections.clustermesh.core.plugins.module_utils._peering import PREFIX

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{CONTROLLER}"
AGENT_SILENT_S = 900  # three heartbeats of an agent
CLOCKS_S = 60  # the clocks of two machines of a cluster differ by less
STATES = ("reachable", "degraded", "blackHoled", "unreachable", "unknown")
ANSWERING = ("reachable", "degraded")
CREDENTIAL = re.compile(r"credential ([0-9a-f]{16})$")


def conditions(item):
    """Type -> condition."""
    return {c["type"]: c for c in (item.get("status") or {}).get("conditions") or ()}


def is_true(item, kind):
    """Whether a condition holds."""
    return conditions(item).get(kind, {}).get("status") == "True"


def controller_rows(lease, now):
    """One row for the controller that leads; none where there is no Lease (one replica, or none at all)."""
    if lease is None:
        return []
    wanted = lease.get("spec") or {}
    leader, renewed = wanted.get("holderIdentity") or "", wanted.get("renewTime")
    reason = "" if leader else "no controller leads"
    if leader and renewed:
        silent_s = _silent_s(renewed, now)
        if silent_s > (wanted.get("leaseDurationSeconds") or 15) + CLOCKS_S:
            reason = f"it has not been heard for {silent_s:.0f} s: what the cluster says of its peers is a thing of the past"
    return [{"controller": leader, "ready": not reason, "reason": reason}]


def _silent_s(time, now):
    """Seconds since a time of the API."""
    return (now - datetime.strptime(time[:19] + "Z", "%Y-%m-%dT%H:%M:%S%z")).total_seconds()


def peer_rows(configurations, remote_nodes):
    """One row a RemoteClusterConfiguration."""
    return [_peer_row(item, remote_nodes) for item in sorted(configurations, key=_name)]


def _peer_row(item, remote_nodes):
    wrong = [c for kind in ("Connected", "Synced") if (c := conditions(item).get(kind, {})).get("status") != "True"]
    spec, status = item.get("spec") or {}, item.get("status") or {}
    reason = ""
    if wrong:
        reason = wrong[0].get("message") or wrong[0].get("reason") or "the controller has not looked at it yet"
    return {
        "peer": _name(item),
        "ready": not wrong,
        "connected": is_true(item, "Connected"),
        "synced": is_true(item, "Synced"),
        "overlay": (spec.get("syncOptions") or {}).get("overlayRoutingMode") or "Disabled",
        "services": (status.get("counts") or {}).get("services") or 0,
        "endpoint_slices": (status.get("counts") or {}).get("endpointSlices") or 0,
        "nodes": sum(1 for node in remote_nodes if (node.get("spec") or {}).get("clusterName") == _name(item)),
        "refused": (status.get("counts") or {}).get("refused") or 0,
        "credential": credential(item),
        "reason": reason,
    }


def credential(item):
    """Digest of the kubeconfig with which the controller is in sync; empty while it is not, or does not say."""
    synced = conditions(item).get("Synced", {})
    found = CREDENTIAL.search(synced.get("message") or "") if synced.get("status") == "True" else None
    return found.group(1) if found else ""


def node_rows(mesh_nodes, wanted, now, answers=True):
    """One row a node; ``wanted`` are the nodes that must have an agent, ``answers`` is whether any peer is to answer."""
    by_name = {_name(item): item for item in mesh_nodes}
    return [_node_row(name, by_name.get(name), now, name in wanted, answers) for name in sorted({*by_name, *wanted})]


def _node_row(name, item, now, is_wanted, answers=True):
    if item is None:
        return _without_agent(name, "no agent has reported from this node")
    status = item.get("status") or {}
    ready, paths = conditions(item).get("Ready", {}), status.get("paths") or {}
    reason = "" if ready.get("status") == "True" else ready.get("message") or ready.get("reason") or "not reported yet"
    heard = status.get("lastHeartbeatTime")
    silent_s = _silent_s(heard, now) if heard else 0
    silence = [f"its agent has not been heard for {silent_s // 60:.0f} min"] if silent_s > AGENT_SILENT_S else []
    bad = _bad_paths(paths)
    # one silent node is that node's trouble; while no remote node at all answers, it is ours; a degraded path answers
    probed, answered = (sum(paths.get(state) or 0 for state in states) for states in (STATES, ANSWERING))
    is_cut_off = answers and bool(probed) and not answered
    if is_cut_off and not bad:
        bad = ["no probe to a remote node has been answered yet"]
    return {
        "node": name,
        "ready": not reason and not is_cut_off and not (silence and is_wanted),
        "routes": sum(peer.get("programmedRoutes") or 0 for peer in status.get("peers") or ()),
        "device": ",".join(device["name"] for device in status.get("devices") or ()),
        "paths": f"{answered}/{probed}" if paths else "",
        "overlay": {peer["name"]: _overlay_of(peer) for peer in status.get("peers") or ()},
        "tunnelled": not any(problem["reason"] == "NoTunnelAddress" for problem in status.get("problems") or ()),
        "reason": reason or "; ".join(silence + bad),
    }


def _without_agent(name, reason):
    empty = {"routes": 0, "device": "", "paths": "", "overlay": {}, "tunnelled": False}
    return {"node": name, "ready": False, **empty, "reason": reason}


def without_agents(answer):
    """A row where the cluster has remote nodes to route to and no agent at all has reported; else none."""
    routed = [row["peer"] for row in answer["peers"] if row["overlay"] == "Enabled" and row["nodes"]]
    if answer["nodes"] or not routed:
        return []
    return [_without_agent("(all)", f"no agent has reported from any node: nothing routes to {', '.join(routed)}")]


def _bad_paths(paths):
    problems = paths.get("problems") or ()
    return [
        f"path to {p['cluster']}/{p['node']} is {p['state']}: {p['reason']}"
        for p in problems
        if p["state"] != "degraded"
    ]


def _overlay_of(peer):
    """Enabled or Disabled once the kernel is as that mode wants it, Switching before."""
    mode, routes = peer.get("overlayRoutingMode") or "Disabled", peer.get("programmedRoutes") or 0
    is_there = routes == (peer.get("wantedRoutes") or 0) and routes > 0
    return mode if is_there or (mode == "Disabled" and not routes) else "Switching"


def sample_of(pods, number):
    """The first ready pods with addresses of their own, of as many nodes as there are.

    [{name, node, address, port}], one for each family that a pod has.
    """
    found = {}
    for pod in pods:
        meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        if spec.get("hostNetwork") or not is_true(pod, "Ready"):
            continue
        ports = (port for box in spec.get("containers") or () for port in box.get("ports") or ())
        port = next((port["containerPort"] for port in ports if port.get("protocol", "TCP") == "TCP"), 0)
        one = {"name": f"{meta['namespace']}/{meta['name']}", "node": spec.get("nodeName") or "", "port": port}
        addresses = [{**one, "address": address["ip"]} for address in status.get("podIPs") or ()]
        if addresses:
            found[one["name"]] = addresses
    nodes, first, more = set(), [], []
    for addresses in found.values():
        (more if addresses[0]["node"] in nodes else first).append(addresses)
        nodes.add(addresses[0]["node"])
    return [address for addresses in [*first, *more][:number] for address in addresses]


def other_overlay(answer, wanted):
    """What does not yet route as wanted: ``wanted`` is peer -> Enabled or Disabled."""
    found = [
        f"{row['peer']} is set to {row['overlay']}"
        for row in answer["peers"]
        if row["overlay"] != wanted.get(row["peer"], row["overlay"])
    ]
    for row in answer["nodes"]:
        modes = {name: row["overlay"].get(name, "Disabled") for name in wanted}
        found += [
            f"node {row['node']} is {mode} towards {name}" for name, mode in modes.items() if mode != wanted[name]
        ]
    return found


def is_complete(answer, peers, excused=()):
    """Whether everything is ready and every expected peer is there; ``excused`` peers are not judged."""
    judged = [row for row in answer["peers"] if row["peer"] not in excused]
    rows = [*answer["controllers"], *judged, *answer["nodes"]]
    return all(row["ready"] for row in rows) and {row["peer"] for row in judged} >= set(peers) - set(excused)


def outdated(answer, credentials):
    """Names of peers that are not (yet) read with the wanted credential."""
    used = {row["peer"]: row["credential"] for row in answer["peers"]}
    return sorted(name for name in credentials if used.get(name) != credentials[name])


def _name(item):
    return item["metadata"]["name"]


def table(answer, only_wrong=False):
    """Lines for people, columns aligned: a line a pair, a peer, a node."""
    columns = {
        "pairs": ("pair", "connected", "synced", "routed", "overlay", "nodes", "services", "endpoint_slices", "paths"),
        "controllers": ("controller", "ready"),
        "peers": ("peer", "connected", "synced", "overlay", "nodes", "services", "refused"),
        "nodes": ("node", "ready", "routes", "paths", "device"),
    }
    lines = []
    for kind, names in columns.items():
        rows = [row for row in answer.get(kind) or () if not (only_wrong and row["ready"])]
        if rows:
            lines += _aligned([[*names, "reason"], *([_cell(row[n]) for n in (*names, "reason")] for row in rows)])
    return lines


def pair_rows(pairs, results):
    """One row a pair, from both of its sides; ``results`` is cluster -> result of mesh_info, or {} where it did not answer."""
    return [_pair_row(pair["a"], pair["b"], pair.get("readers"), results) for pair in pairs]


def _pair_row(a, b, readers, results):
    sides = {
        here: _side(results.get(here) or {}, there) for here, there in ((a, b), (b, a)) if here in (readers or (a, b))
    }
    overlay = {side["overlay"] for side in sides.values()}
    reasons = [f"{here}: {side['reason']}" for here, side in sides.items() if side["reason"]]
    if len(overlay) > 1:
        reasons.append(f"the sides differ: {a} has overlay {sides[a]['overlay']}, {b} has {sides[b]['overlay']}")
    return {
        "pair": f"{a}--{b}",
        "ready": not reasons,
        "connected": _both(sides, "connected"),
        "synced": _both(sides, "synced"),
        "routed": _both(sides, "routed"),
        "overlay": "/".join(sorted(overlay)),
        "nodes": "+".join(str(side["nodes"]) for side in sides.values()),
        "services": "+".join(str(side["services"]) for side in sides.values()),
        "endpoint_slices": "+".join(str(side["endpoint_slices"]) for side in sides.values()),
        "paths": "+".join(side["paths"] or "-" for side in sides.values()),
        "reason": "; ".join(reasons),
    }


def questions(peers):
    """Who must be allowed what: (account, verb, group, resource, namespace, name, answer)."""
    asked = [(REMOTE, "list", "", kind, "", "", True) for kind in ("nodes", "services")]
    asked += [
        (REMOTE, "watch", "discovery.k8s.io", "endpointslices", "", "", True),
        (REMOTE, "get", "", "secrets", "", "", False),
    ]
    secrets = [f"{PREFIX}{name}" for name in peers]
    return [*asked, *((CONTROLLER, "get", "", "secrets", NAMESPACE, secret, True) for secret in secrets)]


def _side(result, peer):
    """What one cluster says of its peer."""
    row = next((row for row in result.get("peers") or () if row["peer"] == peer), None)
    nodes = result.get("nodes") or ()
    if row is None:
        reason = "no such peer" if "peers" in result else result.get("msg") or "did not answer"
        empty = {"connected": False, "synced": False, "routed": False, "overlay": "-", "paths": ""}
        return {**empty, "nodes": 0, "services": 0, "endpoint_slices": 0, "reason": reason}
    modes = {node["node"]: node["overlay"].get(peer, "Disabled") for node in nodes}
    behind = sorted(name for name, mode in modes.items() if mode != row["overlay"])
    reason = "; ".join(one["reason"] for one in result.get("controllers") or () if not one["ready"])
    reason = reason or row["reason"] or (f"nodes that do not route so: {', '.join(behind)}" if behind else "")
    reason = reason or "; ".join(f"{node['node']}: {node['reason']}" for node in nodes if not node["ready"])
    return {**row, "routed": not behind, "paths": ",".join(n["paths"] for n in nodes if n["paths"]), "reason": reason}


def _both(sides, key):
    """yes where both sides say so, no where none does, else the name of the only one that does."""
    true = [name for name, side in sides.items() if side[key]]
    return "yes" if len(true) == len(sides) else f"only {true[0]}" if true else "no"


def _cell(value):
    return {True: "yes", False: "no", "": "-"}.get(value, str(value)) if isinstance(value, (bool, str)) else str(value)


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
