# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""This cluster's half of its pairs: which objects its peers need here. Pure functions.

A peer without kubeconfig is one that is not part of this run (--limit): its objects stay as they are.
"""

from __future__ import annotations

from ansible_collections.clustermesh.core.plugins.module_utils._access import CONTROLLER, role_and_binding
from ansible_collections.clustermesh.core.plugins.module_utils._objects import GROUP, NAMESPACE, is_ours
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import Step, plan_present

READER = "remote-cluster-secret-access"
PREFIX = "mesh-access-"


def access_secret(peer):
    """The Secret by which the controller reaches a peer."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{PREFIX}{peer['name']}", "namespace": NAMESPACE},
        "type": "Opaque",
        "stringData": {"kubeconfig": peer.get("kubeconfig") or "", "datastoreType": "kubernetes"},
    }


def configuration(peer):
    """The RemoteClusterConfiguration of a peer."""
    spec = {
        "clusterAccessSecret": {"name": f"{PREFIX}{peer['name']}", "namespace": NAMESPACE, "kind": "Secret"},
        "syncOptions": {"overlayRoutingMode": peer.get("overlay") or "Enabled"},
    }
    if peer.get("admit"):
        spec["import"] = peer["admit"]
    return {
        "apiVersion": GROUP,
        "kind": "RemoteClusterConfiguration",
        "metadata": {"name": peer["name"], "labels": peer.get("labels") or {}},
        "spec": spec,
    }


def reader(names):
    """Who may read exactly these access Secrets: the controller."""
    rules = [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": sorted(f"{PREFIX}{name}" for name in names),
            "verbs": ["get", "list", "watch"],
        }
    ]
    return role_and_binding(READER, CONTROLLER, rules, namespaced=True)


def plan(peers, secrets, configurations, readers, prune=True):
    """The steps in the order of writing; ``secrets`` and ``configurations`` are what is stored, by name.

    Returns (steps, results of the peers).
    """
    steps, results, kept = [], [], []
    for peer in peers:
        known = f"{PREFIX}{peer['name']}" in secrets and peer["name"] in configurations
        if not peer.get("kubeconfig"):
            results.append({"name": peer["name"], "action": "kept" if known else "skipped"})
            kept += [peer["name"]] if known else []
            continue
        kept.append(peer["name"])
        mine = [
            plan_present(access_secret(peer), secrets.get(f"{PREFIX}{peer['name']}")),
            plan_present(configuration(peer), configurations.get(peer["name"])),
        ]
        steps += mine
        results.append({"name": peer["name"], "action": _summary(mine)})
    gone = _surplus(kept, peers, secrets, configurations) if prune else []
    results += [
        {"name": s.stored["metadata"]["name"], "action": "pruned"} for s in gone if s.stored["kind"] != "Secret"
    ]
    return [*_reader_steps(kept, readers), *steps, *gone], results


def _summary(steps):
    actions = [step.action for step in steps]
    if "create" in actions:
        return "created"
    return "updated" if "update" in actions else "unchanged"


def _surplus(kept, peers, secrets, configurations):
    """Ours that no peer stands for any more; the configuration first, so that the controller lets go in order."""
    names = {*kept, *(peer["name"] for peer in peers)}
    found = [item for name, item in sorted(configurations.items()) if name not in names and is_ours(item)]
    found += [
        item
        for name, item in sorted(secrets.items())
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in names and is_ours(item)
    ]
    return [Step("delete", None, item) for item in found]


def _reader_steps(names, readers):
    wanted = reader(names)
    if names:
        return [plan_present(item, stored) for item, stored in zip(wanted, readers)]
    return [Step("delete", None, stored) for stored in readers if stored and is_ours(stored)]
