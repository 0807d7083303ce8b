# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Hosts of an inventory from kubeconfigs and Nodes. Pure functions.

What an API server says becomes variables of hosts, so nothing passes that is not a name, a label or an address.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re

ROLE = "node-role.kubernetes.io/"
CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TOKEN = re.compile(r"[A-Za-z0-9._/-]{0,317}")


class BadInventory(ValueError):
    """A kubeconfig or an option that cannot be."""


def clusters(path, content, patterns, name_pattern):
    """[{name, kubeconfig, context}] of a kubeconfig's contexts that match one of the patterns."""
    contexts = content.get("contexts") if isinstance(content, dict) else None
    if not isinstance(contexts, list):
        raise BadInventory(f"{path}: has no list of contexts, so it is no kubeconfig")
    found = []
    for item in contexts:
        context = str(item.get("name") or "") if isinstance(item, dict) else ""
        if not context or not any(fnmatch.fnmatchcase(context, pattern) for pattern in patterns):
            continue
        found.append({"name": _cluster_name(path, context, name_pattern), "kubeconfig": path, "context": context})
    return found


def _cluster_name(path, context, pattern):
    match = re.fullmatch(pattern, context)
    if match is None or not match.groups():
        raise BadInventory(f"{path}: context {context}: cluster_name {pattern!r} does not match it with a group")
    if not CLUSTER_NAME.fullmatch(match.group(1) or ""):
        raise BadInventory(
            f"{path}: context {context}: {match.group(1)!r} is no DNS label, as the name of a cluster must be; "
            "choose other contexts, or a cluster_name whose group is one"
        )
    return match.group(1)


def unique(found):
    """The clusters, if no two have one name."""
    by_name = {}
    for cluster in found:
        other = by_name.setdefault(cluster["name"], cluster)
        if other is not cluster:
            raise BadInventory(
                f"contexts {other['context']} of {other['kubeconfig']} and {cluster['context']} of "
                f"{cluster['kubeconfig']} both name cluster {cluster['name']}; choose by contexts"
            )
    return list(by_name.values())


def node(item):
    """{name, address, roles, labels} of a Node; None for one whose name is none."""
    meta = item.get("metadata") or {}
    name, labels = meta.get("name"), meta.get("labels") or {}
    if not isinstance(name, str) or not name or not _TOKEN.fullmatch(name):
        return None
    labels = {k: v for k, v in labels.items() if _TOKEN.fullmatch(k) and isinstance(v, str) and _TOKEN.fullmatch(v)}
    roles = sorted(key.removeprefix(ROLE) for key in labels if key.startswith(ROLE))
    return {"name": name, "address": _address(item), "roles": roles, "labels": labels}


def _address(item):
    for entry in (item.get("status") or {}).get("addresses") or ():
        if entry.get("type") == "InternalIP":
            try:
                return str(ipaddress.ip_address(entry.get("address")))
            except ValueError:
                continue
    return None
