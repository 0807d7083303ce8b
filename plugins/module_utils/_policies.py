# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Policies as two clusters can compare them: the same value whichever API serves them. Pure functions.

Calico's kinds are served as projectcalico.org/v3, or as crd.projectcalico.org/v1, its storage, where policies of the
default tier carry its name in front and labels may stand in an annotation. Here every policy has its name of v3.
"""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass, field

from ansible_collections.clustermesh.core.plugins.module_utils._objects import LABEL, OWNER

SET_LABEL = "clustermesh.io/policy-set"
DIGEST = "clustermesh.io/policy-digest"
CALICO = ("projectcalico.org/v3", "crd.projectcalico.org/v1")
STORED_META = "projectcalico.org/metadata"
CALICO_PREFIX = "projectcalico.org/"
DROPPED = ("kubectl.kubernetes.io/last-applied-configuration", STORED_META, DIGEST)
BUILT_IN_TIERS = ("default", "adminnetworkpolicy", "baselineadminnetworkpolicy", "kube-admin", "kube-baseline")
VIEWS = ("knp.", "kcnp.", "kanp.", "kbanp.")  # what Calico shows of Kubernetes' own policies


@dataclass(frozen=True)
class Kind:
    """A kind of policy; ``rank`` is the order of writing, removal goes the other way."""

    name: str
    kind: str
    plural: str
    versions: tuple[str, ...]
    namespaced: bool
    rank: int

    @property
    def is_tiered(self):
        return self.kind in ("NetworkPolicy", "GlobalNetworkPolicy") and self.versions is CALICO


KINDS = {
    kind.name: kind
    for kind in (
        Kind("Tier", "Tier", "tiers", CALICO, False, 0),
        Kind("NetworkSet", "NetworkSet", "networksets", CALICO, True, 1),
        Kind("GlobalNetworkSet", "GlobalNetworkSet", "globalnetworksets", CALICO, False, 1),
        Kind("NetworkPolicy", "NetworkPolicy", "networkpolicies", ("networking.k8s.io/v1",), True, 2),
        Kind("CalicoNetworkPolicy", "NetworkPolicy", "networkpolicies", CALICO, True, 2),
        Kind("GlobalNetworkPolicy", "GlobalNetworkPolicy", "globalnetworkpolicies", CALICO, False, 2),
        Kind("ClusterNetworkPolicy", "ClusterNetworkPolicy", "clusternetworkpolicies",
             ("policy.networking.k8s.io/*",), False, 2),
    )
}  # fmt: skip


class BadPolicy(ValueError):
    """A definition, selection or rule that cannot be."""


@dataclass(frozen=True)
class Policy:
    """A policy, tier or set without anything that belongs to one cluster."""

    kind: Kind
    namespace: str
    name: str
    labels: dict = field(default_factory=dict)
    annotations: dict = field(default_factory=dict)
    spec: dict = field(default_factory=dict)

    @property
    def key(self):
        return (self.kind.name, self.namespace, self.name)

    @property
    def tier(self):
        """The tier it is in; None for what is in none."""
        return (self.spec.get("tier") or "default") if self.kind.is_tiered else None

    def __str__(self):
        return f"{self.kind.name} {self.namespace + '/' if self.namespace else ''}{self.name}"


def kind_of(version, kind):
    """The kind of an object by its apiVersion and kind, None for another kind."""
    group = version.rpartition("/")[0]
    for known in KINDS.values():
        if known.kind == kind and group in {candidate.rpartition("/")[0] for candidate in known.versions}:
            return known
    return None


def canonical(kind, item):
    """The Policy of an object as an API server or a file has it."""
    meta = item.get("metadata") or {}
    labels, annotations = _said(meta)
    spec = item.get("spec") or {}
    name = meta.get("name") or ""
    if kind.is_tiered and (spec.get("tier") or "default") == "default":
        name = name.removeprefix("default.")
    labels = {k: v for k, v in labels.items() if k != SET_LABEL and (k, v) != (LABEL, OWNER)}
    if kind.versions is CALICO:  # such as projectcalico.org/tier, which the server adds
        labels = {k: v for k, v in labels.items() if not k.startswith(CALICO_PREFIX)}
    annotations = {k: v for k, v in annotations.items() if k not in DROPPED}
    namespace = (meta.get("namespace") or "") if kind.namespaced else ""
    return Policy(kind, namespace, name, labels, annotations, spec)


def _said(meta):
    """Labels and annotations; of Calico's storage those that the API server of v3 would show."""
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    try:
        hidden = json.loads(annotations.get(STORED_META) or "{}")
    except ValueError:
        hidden = {}
    if isinstance(hidden, dict) and (hidden.get("labels") or hidden.get("annotations")):
        labels = {**labels, **(hidden.get("labels") or {})}
        annotations = {**annotations, **(hidden.get("annotations") or {})}
    return labels, annotations


def is_native(kind, item):
    """Whether a stored object is somebody's decision; not one that a controller or Calico itself keeps."""
    meta = item["metadata"]
    owners = meta.get("ownerReferences") or ()
    if any(owner.get("controller") and owner.get("kind") != "Tier" for owner in owners):
        return False
    if kind.name == "Tier":
        return meta["name"] not in BUILT_IN_TIERS
    return not (kind.is_tiered and meta["name"].startswith(VIEWS))


def from_definitions(definitions):
    """(policies, refusals) of manifests, lists of kubectl among them taken apart."""
    policies, refusals = [], []
    for item in _flat(definitions):
        meta = item.get("metadata") or {}
        kind = kind_of(str(item.get("apiVersion") or ""), item.get("kind"))
        what = f"{item.get('kind')} {meta.get('name')} ({item.get('apiVersion')})"
        if kind is None:
            refusals.append(f"{what}: not a kind of policy; there are {', '.join(KINDS)}")
        elif not meta.get("name"):
            refusals.append(f"{what}: has no metadata.name")
        elif kind.namespaced and not meta.get("namespace"):
            refusals.append(f"{what}: has no metadata.namespace; write the one it is for")
        elif not isinstance(item.get("spec") or {}, dict):
            refusals.append(f"{what}: spec is not a dictionary")
        else:
            policies.append(canonical(kind, item))
    return policies, refusals


def _flat(definitions):
    for item in definitions:
        if not isinstance(item, dict):
            raise BadPolicy(f"a definition is {str(item)[:60]!r}; a manifest is a dictionary")
        if str(item.get("kind") or "").endswith("List") and isinstance(item.get("items"), list):
            kind = item["kind"].removesuffix("List")
            defaults = {"apiVersion": item.get("apiVersion"), "kind": kind} if kind else {}
            yield from _flat({**defaults, **inner} for inner in item["items"])
        else:
            yield item


# ---- selection

_REQUIREMENT = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<without>[\w./-]+)|(?P<key>[\w./-]+)\s*"
    r"(?:(?P<op>==|=|!=)\s*(?P<value>[\w.-]*)|(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)"
)


def label_matcher(text):
    """A function that tells whether labels match a label selector of Kubernetes; raises BadPolicy."""
    tests, at = [], 0
    while at < len(text or ""):
        found = _REQUIREMENT.match(text, at)
        if found is None or found.end() == at:
            raise BadPolicy(
                f"label_selector: cannot read {text[at:]!r}; write for example app=shop,tier in (a, b),!old"
            )
        tests.append(_test(found))
        at = found.end()
    return lambda labels: all(test(labels) for test in tests)


def _test(found):
    key = found["key"] or found["without"]
    if found["absent"]:
        return lambda labels: key not in labels
    if found["op"]:
        values = {found["value"]}
    elif found["set"]:
        values = {value.strip() for value in found["values"].split(",")}
    else:
        return lambda labels: key in labels
    if found["op"] == "!=" or found["set"] == "notin":
        return lambda labels: labels.get(key) not in values
    return lambda labels: labels.get(key) in values


def selected(policies, label_selector=None, namespaces=None, names=None):
    """Those of policies that match all; cluster-wide ones whatever the namespaces."""
    matches = label_matcher(label_selector)
    return [
        policy
        for policy in policies
        if matches(policy.labels)
        and (not namespaces or not policy.kind.namespaced or policy.namespace in namespaces)
        and (not names or any(fnmatch.fnmatchcase(policy.name, pattern) for pattern in names))
    ]
