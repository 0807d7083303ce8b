# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Read, compare, write only what differs: the one way in which modules change a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.clustermesh.core.plugins.module_utils._objects import (
    is_as_wanted,
    is_ours,
    name_of,
    owned,
    projected,
    shown,
)


@dataclass(frozen=True)
class Step:
    """What is to be done about one object: create, update, delete, keep or leave (it is not ours)."""

    action: str
    wanted: dict | None
    stored: dict | None

    @property
    def item(self):
        return self.wanted or self.stored

    @property
    def changes(self):
        return self.action in ("create", "update", "delete")


def plan_present(definition, stored):
    """What it takes that ``definition`` holds."""
    wanted = owned(definition)
    if stored is None:
        return Step("create", wanted, None)
    return Step("keep" if is_as_wanted(wanted, stored) else "update", wanted, stored)


def plan_absent(definition, stored):
    """What it takes that the object is gone; one without our label stays."""
    if stored is None:
        return Step("keep", None, definition)
    return Step("delete" if is_ours(stored) else "leave", None, stored)


def carry_out(client, steps):
    """Writes what differs, in order."""
    for step in steps:
        if step.action in ("create", "update"):
            client.apply(step.wanted)
        elif step.action == "delete":
            client.delete(step.stored)


def result(steps):
    """What a module returns about its steps."""
    objects = [
        {"kind": s.item["kind"], "namespace": s.item["metadata"].get("namespace") or "",
         "name": s.item["metadata"]["name"], "action": s.action}
        for s in steps
    ]  # fmt: skip
    return {
        "changed": any(s.changes for s in steps),
        "objects": objects,
        "diff": [_diff(s) for s in steps if s.changes],
    }


def _diff(step):
    after = shown(step.wanted)
    before = shown(step.stored)
    if step.action == "update":
        before = projected(after, before)
    return {"before_header": name_of(step.item), "after_header": name_of(step.item), "before": before, "after": after}
