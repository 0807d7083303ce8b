# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What it takes that a cluster has a set of policies: pure functions of what is wanted and what is stored."""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible_collections.clustermesh.core.plugins.module_utils._objects import LABEL, MANAGER, OWNER, is_ours
from ansible_collections.clustermesh.core.plugins.module_utils._policies import (
    BUILT_IN_TIERS,
    CALICO,
    CALICO_PREFIX,
    DIGEST,
    KINDS,
    SET_LABEL,
    STORED_META,
    canonical,
)
from ansible_collections.clustermesh.core.plugins.module_utils._policy_drift import asked, compare


@dataclass
class PolicyStep:
    """What is to be done about one policy: create, update, keep, delete, skip (it cannot be now), leave (not ours)."""

    action: str
    policy: object
    stored: dict | None = None
    drift: list = field(default_factory=list)
    reason: str = ""

    @property
    def changes(self):
        return self.action in ("create", "update", "delete")


def is_of_set(stored, name):
    """Whether an object was made by us for a policy set."""
    return is_ours(stored) and stored["metadata"]["labels"].get(SET_LABEL) == name


@dataclass(frozen=True)
class Target:
    """The cluster that is to have the policies: what it serves and stores.

    ``versions``: API version by kind, without kinds that are not served. ``stored``: objects by Policy.key.
    """

    versions: dict
    stored: dict
    namespaces: set

    @property
    def tiers(self):
        return {name for kind, dummy, name in self.stored if kind == "Tier"} | set(BUILT_IN_TIERS)


def plan(policies, target, set_name, adopt=False):
    """Steps for policies that are to be there, tiers and sets before policies."""
    wanted, doubles = {}, []
    for policy in policies:
        if policy.key in wanted:
            doubles.append(PolicyStep("skip", policy, reason="another policy of the selection has this name"))
        wanted.setdefault(policy.key, policy)
    tiers = target.tiers | {policy.name for policy in wanted.values() if policy.kind.name == "Tier"}
    ordered = sorted(wanted.values(), key=lambda policy: (policy.kind.rank, policy.key))
    return [_step(policy, target, set_name, adopt, tiers) for policy in ordered] + doubles


def _step(policy, target, set_name, adopt, tiers):
    stored = target.stored.get(policy.key)
    if policy.kind.name not in target.versions:
        return PolicyStep("skip", policy, reason="this cluster does not serve the kind")
    if policy.namespace and policy.namespace not in target.namespaces:
        return PolicyStep("skip", policy, reason=f"this cluster has no namespace {policy.namespace}")
    if policy.tier and policy.tier not in tiers:
        return PolicyStep("skip", policy, reason=f"tier {policy.tier} is neither selected nor there")
    if stored is None:
        return PolicyStep("create", policy)
    if not is_of_set(stored, set_name) and not adopt:
        return PolicyStep("leave", policy, stored, reason=_owner(stored))
    is_as_wanted, drift = compare(policy, stored)
    if is_as_wanted and is_of_set(stored, set_name):
        return PolicyStep("keep", policy, stored)
    return PolicyStep("update", policy, stored, drift if is_of_set(stored, set_name) else [])


def _owner(stored):
    if is_ours(stored) and stored["metadata"]["labels"].get(SET_LABEL):
        return f"belongs to policy set {stored['metadata']['labels'][SET_LABEL]}; choose one set for it"
    return "was not made by clustermesh; remove it, or set adopt: true"


def plan_gone(keys, target, set_name):
    """Steps that remove what the set has and ``keys`` do not list, policies before sets and tiers."""
    surplus = [
        PolicyStep("delete", canonical(KINDS[key[0]], item), item)
        for key, item in target.stored.items()
        if key not in keys and is_of_set(item, set_name)
    ]
    return sorted(surplus, key=lambda step: (step.policy.kind.rank, step.policy.key), reverse=True)


def manifest(policy, version, set_name=None, stored=None, made=""):
    """The object to write; with ``stored`` the whole of it, so that what we do not speak about stays.

    Without ``set_name`` it is a plain manifest of the policy.
    """
    name = policy.name
    if version == CALICO[1] and policy.tier == "default" and not name.startswith("default."):
        name = f"default.{name}"
    meta = {"name": name, "labels": dict(policy.labels), "annotations": dict(policy.annotations)}
    if policy.namespace:
        meta["namespace"] = policy.namespace
    if set_name:
        meta["labels"] |= {LABEL: OWNER, SET_LABEL: set_name}
        meta["annotations"][DIGEST] = f"{asked(policy)}.{made}"
    if stored:
        meta = _kept(stored["metadata"], policy) | meta | {"name": stored["metadata"]["name"]}
        meta["labels"] |= _labels_of_server(stored["metadata"], policy)
        meta["annotations"] = _annotations_of_others(stored["metadata"]) | meta["annotations"]
    for key in ("labels", "annotations"):
        if not meta[key]:
            del meta[key]
    return {"apiVersion": version, "kind": policy.kind.kind, "metadata": meta, "spec": policy.spec}


def _kept(meta, policy):
    return {key: meta[key] for key in ("resourceVersion", "finalizers", "ownerReferences") if key in meta}


def _labels_of_server(meta, policy):
    if policy.kind.versions is not CALICO:
        return {}
    return {k: v for k, v in (meta.get("labels") or {}).items() if k.startswith(CALICO_PREFIX)}


def _annotations_of_others(meta):
    """Annotations without those that we once wrote, and without Calico's copy of labels, which ours replace."""
    ours = {STORED_META}
    for entry in meta.get("managedFields") or ():
        if entry.get("manager") == MANAGER:
            fields = ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
            ours |= {key.removeprefix("f:") for key in fields}
    return {k: v for k, v in (meta.get("annotations") or {}).items() if k not in ours}
