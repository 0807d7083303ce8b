# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How a mesh is, as rows for people and dashboards. Pure functions."""

from __future__ import annotations

import re

CREDENTIAL = re.compile(r"credential ([0-9a-f]{16})$")


def conditions(item):
    """Type -> condition."""
    return {c["type"]: c for c in (item.get("status") or {}).get("conditions") or ()}


def is_true(item, kind):
    """Whether a condition holds."""
    return conditions(item).get(kind, {}).get("status") == "True"


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


def node_rows(mesh_nodes, wanted):
    """One row a node; ``wanted`` are the nodes that must have an agent."""
    by_name = {_name(item): item for item in mesh_nodes}
    return [_node_row(name, by_name.get(name)) for name in sorted({*by_name, *wanted})]


def _node_row(name, item):
    if item is None:
        return {
            "node": name,
            "ready": False,
            "routes": 0,
            "device": "",
            "reason": "no agent has reported from this node",
        }
    status = item.get("status") or {}
    ready = conditions(item).get("Ready", {})
    is_ready = ready.get("status") == "True"
    return {
        "node": name,
        "ready": is_ready,
        "routes": sum(peer.get("programmedRoutes") or 0 for peer in status.get("peers") or ()),
        "device": ",".join(device["name"] for device in status.get("devices") or ()),
        "reason": "" if is_ready else ready.get("message") or ready.get("reason") or "not reported yet",
    }


def is_complete(answer, peers):
    """Whether everything is ready and every expected peer is there."""
    rows = [*answer["peers"], *answer["nodes"]]
    return all(row["ready"] for row in rows) and {row["peer"] for row in answer["peers"]} >= set(peers)


def outdated(answer, credentials):
    """Names of peers that are not (yet) read with the wanted credential."""
    used = {row["peer"]: row["credential"] for row in answer["peers"]}
    return sorted(name for name in credentials if used.get(name) != credentials[name])


def _name(item):
    return item["metadata"]["name"]


def table(answer, only_wrong=False):
    """Lines for people, columns aligned: a line a peer, then a line a node."""
    columns = {
        "peers": ("peer", "connected", "synced", "overlay", "nodes", "refused"),
        "nodes": ("node", "ready", "routes", "device"),
    }
    lines = []
    for kind, names in columns.items():
        rows = [row for row in answer.get(kind) or () if not (only_wrong and row["ready"])]
        if rows:
            lines += _aligned([[*names, "reason"], *([_cell(row[n]) for n in (*names, "reason")] for row in rows)])
    return lines


def _cell(value):
    return {True: "yes", False: "no", "": "-"}.get(value, str(value)) if isinstance(value, (bool, str)) else str(value)


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
