# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Read, compare, write only what differs: the one way in which modules change a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.clustermesh.core.plugins.module_utils._objects import (
    is_as_wanted,
    is_our_definition,
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


def plan_some(definition, stored):
    """What it takes that there is such an object, whoever made it and whatever it says."""
    return plan_present(definition, None) if stored is None else Step("keep", owned(definition), stored)


def plan_absent(definition, stored):
    """What it takes that the object is gone; one without our label stays."""
    if stored is None:
        return Step("keep", None, definition)
    return Step("delete" if is_ours(stored) else "leave", None, stored)


def foreign(steps):
    """What the steps would take over: objects of our names that somebody else made."""
    written = [step.stored for step in steps if step.action == "update"]
    return [stored for stored in written if not is_ours(stored) and not is_our_definition(stored)]


def write(module, client, steps, variable, later=()):
    """Carries the steps out, in a check run not, unless they or ``later`` ones take over what nobody said they may.

    ``variable`` is the role's for option ``adopt``.
    """
    conflicts = [] if module.params["adopt"] else sorted(map(name_of, foreign([*steps, *later])))
    if conflicts:
        module.fail_json(
            msg=f"in the way and not made by clustermesh: {', '.join(conflicts)}; "
            f"remove them, or set adopt: true (variable {variable}) to take them over",
            conflicts=conflicts,
        )
    if not module.check_mode:
        carry_out(client, steps)


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
