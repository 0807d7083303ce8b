# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What is to be compared about two Kubernetes objects, and how to show the difference. Pure functions.

A converged run must not write, so "is it as wanted?" is decided here and not by the API server: every wanted field is
there with that value, and nothing we once applied and no longer want is left (the object's managedFields tell).
"""

from __future__ import annotations

import base64
import hashlib
import json

MANAGER = "clustermesh-ansible"
NAMESPACE = "clustermesh-system"
LABEL = "app.kubernetes.io/managed-by"
OWNER = "clustermesh"
PART = "app.kubernetes.io/part-of"  # carried by the CustomResourceDefinitions in roles/mesh_crds/files
GROUP = "clustermesh.io/v1alpha1"
IDENTITY = ("apiVersion", "kind", "metadata")


def owned(definition):
    """The definition with our label and without empty fields, Secrets' stringData as data."""
    wanted = _without_none(definition)
    meta = dict(wanted.get("metadata") or {})
    wanted["metadata"] = {**meta, "labels": {**(meta.get("labels") or {}), LABEL: OWNER}}
    texts = wanted.pop("stringData", None) if wanted.get("kind") == "Secret" else None
    if texts:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        wanted["data"] = {**wanted.get("data", {}), **encoded}
    return wanted


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def is_ours(stored):
    """Whether an object carries our label."""
    return ((stored.get("metadata") or {}).get("labels") or {}).get(LABEL) == OWNER


def is_our_definition(stored):
    """Whether this is a CustomResourceDefinition of ours, also one that somebody applied by hand."""
    if stored.get("kind") != "CustomResourceDefinition":
        return False
    of_part = (stored["metadata"].get("labels") or {}).get(PART) == OWNER
    return of_part or stored["spec"]["group"] == GROUP.partition("/")[0]


def name_of(item):
    """Kind, namespace and name, for people."""
    meta = item["metadata"]
    place = f"{meta['namespace']}/" if meta.get("namespace") else ""
    return f"{item['kind']} {place}{meta['name']}"


def is_as_wanted(wanted, stored):
    """Whether applying ``wanted`` would change nothing that we care about."""
    return _holds(wanted, stored) and not _left_over(wanted, stored)


def _holds(wanted, stored):
    """Whether every wanted field is stored; the API server drops empty ones."""
    if isinstance(wanted, dict):
        stored = stored if isinstance(stored, dict) else {}
        return all(_holds(value, stored.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        stored = stored or []
        return len(wanted) == len(stored) and all(map(_holds, wanted, stored))
    return wanted == stored or (not wanted and not stored)


def _left_over(wanted, stored):
    for entry in (stored.get("metadata") or {}).get("managedFields") or ():
        if entry.get("manager") == MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource"):
            return _surplus(entry.get("fieldsV1") or {}, wanted)
    return False


def _surplus(fields, wanted):
    """Whether ``fields`` (fieldsV1) names something that ``wanted`` does not have."""
    for key, below in fields.items():
        kind, dummy, name = key.partition(":")
        if kind == "f":
            if not isinstance(wanted, dict) or name not in wanted:
                return True
            inner = wanted[name]
        elif kind == "v":
            if json.loads(name) not in (wanted or []):
                return True
            continue
        elif kind == "k":
            match = json.loads(name)
            inner = next((item for item in wanted or [] if _is_item(item, match)), None)
            if inner is None:
                return True
        else:  # "." marks the container itself
            continue
        if below and _surplus(below, inner):
            return True
    return False


def _is_item(item, match):
    # defaulted keys (a port's protocol) stand in the field set and not in what we applied
    return all(item.get(key, value) == value for key, value in match.items())


def shown(item):
    """An object fit for a diff: values of Secrets as digests, without what the server adds."""
    if item is None:
        return {}
    meta = {k: v for k, v in item["metadata"].items() if k in ("name", "namespace", "labels", "annotations")}
    result = {**item, "metadata": meta}
    result.pop("status", None)
    if item.get("kind") == "Secret":
        result["data"] = {key: digest(value) for key, value in (item.get("data") or {}).items()}
    return result


def digest(text):
    """A short name for a secret value, equal for equal values."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def projected(wanted, stored):
    """Of ``stored`` what ``wanted`` speaks about, so that a diff shows only what changes."""
    if isinstance(wanted, dict) and isinstance(stored, dict):
        return {key: projected(value, stored[key]) for key, value in wanted.items() if key in stored}
    if isinstance(wanted, list) and isinstance(stored, list):
        pairs = [projected(w, s) for w, s in zip(wanted, stored)]
        return pairs + stored[len(wanted) :]
    return stored
