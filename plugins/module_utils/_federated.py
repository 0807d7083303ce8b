# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Federated Services: what a definition means as a Service, and what stands against writing it. Pure functions.

The grammar of selectors has one home, the controller; what it refuses shows as an Event and in ``clustermesh services``.
"""

from __future__ import annotations

import re

from ansible_collections.clustermesh.core.plugins.module_utils._objects import is_ours, name_of
from ansible_collections.clustermesh.core.plugins.module_utils._reconcile import Step, plan_absent, plan_present

SELECTOR = "federation.tigera.io/serviceSelector"
AFFINITY = "clustermesh.io/affinity"
STALENESS = "clustermesh.io/staleness"
OWN_ANNOTATIONS = (SELECTOR, "clustermesh.io/serviceSelector", AFFINITY, STALENESS)
MAX_SELECTOR = 1024
PROMISES = re.compile(r"keep|(not-ready|drop)(:[0-9]{1,9}[smh]?)?")


class BadService(ValueError):
    """A definition that cannot be."""


def service(wanted):
    """The Service of a definition (suboptions of federated_service); raises BadService."""
    _check(wanted)
    annotations = {
        **(wanted.get("annotations") or {}),
        SELECTOR: wanted["selector"].strip(),
        AFFINITY: wanted.get("affinity"),
        STALENESS: wanted.get("staleness"),
    }
    spec = {
        "type": "ClusterIP",
        "ports": [_port(port) for port in wanted["ports"]],
        "sessionAffinity": wanted.get("session_affinity") or "None",
    }
    if wanted.get("headless"):
        spec["clusterIP"] = "None"
    if wanted.get("session_affinity_timeout"):
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": wanted["session_affinity_timeout"]}}
    return {**bare(wanted), "metadata": _metadata(wanted, annotations), "spec": spec}


def bare(wanted):
    """What it takes to look a definition's Service up."""
    meta = {"name": wanted["name"], "namespace": wanted["namespace"]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta}


def _metadata(wanted, annotations):
    labels = dict(wanted.get("labels") or {})
    return {**bare(wanted)["metadata"], "labels": labels, "annotations": annotations}


def _port(port):
    return {
        "name": port.get("name"),
        "port": port["port"],
        "protocol": port.get("protocol") or "TCP",
        "appProtocol": port.get("app_protocol"),
    }


def _check(wanted):
    where = f"service {wanted['namespace']}/{wanted['name']}"
    selector = (wanted.get("selector") or "").strip()
    if not selector:
        raise BadService(f"{where}: selector is empty, which selects nothing; for every Service write all()")
    if len(selector) > MAX_SELECTOR:
        raise BadService(f"{where}: selector has {len(selector)} characters; at most {MAX_SELECTOR}")
    if not wanted.get("ports"):
        raise BadService(f"{where}: ports is empty; list the ports of the backing Services by name and protocol")
    if len(wanted["ports"]) > 1 and not all(port.get("name") for port in wanted["ports"]):
        raise BadService(f"{where}: with more than one port each needs a name, that of the backing Services' port")
    for key in OWN_ANNOTATIONS:
        if key in (wanted.get("annotations") or {}):
            raise BadService(f"{where}: annotations has {key}; set it by selector, affinity or staleness")
    staleness = wanted.get("staleness")
    if staleness and not PROMISES.fullmatch(staleness):
        raise BadService(f"{where}: staleness is {staleness[:100]!r}; write keep, not-ready:5m or drop:10m")
    if wanted.get("session_affinity_timeout") and wanted.get("session_affinity") != "ClientIP":
        raise BadService(f"{where}: session_affinity_timeout needs session_affinity: ClientIP")


def in_the_way(wanted, stored, adopt=False, drop_selector=False):
    """Why a stored Service must not be written over, None when it may."""
    if stored is None:
        return None
    spec, name = stored.get("spec") or {}, name_of(stored)
    if not is_ours(stored) and not adopt:
        return f"{name} was not made by clustermesh; remove it, or set adopt: true"
    if spec.get("selector") and not drop_selector:
        return (
            f"{name} has spec.selector, so that Kubernetes itself serves it from pods of this cluster; "
            "set drop_selector: true to federate it all the same"
        )
    if spec.get("type") == "ExternalName":
        return f"{name} is of type ExternalName, which has no endpoints; remove it"
    was_headless = spec.get("clusterIP") == "None"
    if was_headless != (wanted["spec"].get("clusterIP") == "None"):
        kind = "headless" if was_headless else "not headless"
        return f"{name} is {kind}, which cannot be changed; remove it (state: absent), then make it anew"
    return None


def plan(definitions, stored, adopt=False, drop_selector=False):
    """(steps, refusals) for Services that are to be there; ``stored`` is what there is, in the order of definitions."""
    steps, refusals, seen = [], [], set()
    for definition, present in zip(definitions, stored):
        name = (definition["namespace"], definition["name"])
        try:
            wanted = service(definition)
        except BadService as problem:
            refusals.append(str(problem))
            continue
        if name in seen:
            refusals.append(f"service {'/'.join(name)}: defined twice")
            continue
        seen.add(name)
        reason = in_the_way(wanted, present, adopt, drop_selector)
        if reason:
            refusals.append(reason)
            steps.append(Step("leave", None, present))
            continue
        step = plan_present(wanted, present)
        if step.action == "keep" and present["spec"].get("selector"):
            step = Step("update", step.wanted, present)
        steps.append(step)
    return steps, refusals


def plan_gone(definitions, stored):
    """Steps for Services that are to be gone."""
    return [plan_absent(bare(definition), present) for definition, present in zip(definitions, stored)]
