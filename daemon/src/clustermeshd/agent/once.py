"""The ways to run that end: ``--once``, ``--once --dry-run`` and ``--uninstall``."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Final, TextIO

from clustermeshd.agent.dataplane import KernelThread
from clustermeshd.agent.engine import Inputs, log_changes
from clustermeshd.kernel.state import Changes, Marked
from clustermeshd.model.settings import Dataplane
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay_claims import Problem

_LOG = logging.getLogger(__name__)
_REPAIR_S: Final = 2.0  # by then an agent that still runs has put back something of what was taken from it


def uninstall(settings: Dataplane) -> int:
    """Remove every kernel object that carries our marks, and nothing else; 0 when all went and stayed away."""
    thread = KernelThread(settings)
    try:
        kernel = thread.engine.kernel
        changes = diff(Marked(), kernel.observe().marked)
        if not changes:
            return 0
        report = kernel.apply(changes)
        log_changes(changes.without(report.failures), is_repair=False)
        for failure in report.failures:
            _LOG.error("%s: %s", failure.object, failure.reason)
        if report.failures:
            return 1
        time.sleep(_REPAIR_S)
        return _complain(diff(Marked(), kernel.observe().marked))
    finally:
        thread.close()


def _complain(left: Changes) -> int:
    """1 where something is left to remove, which is logged."""
    if not left:
        return 0
    found = [f"{len(delta.delete)} {kind}" for kind, delta in left.deltas() if delta]
    found += ["the nftables table"] if left.nft else []
    text = "removed, and there again after %.0f s: %s; an agent seems to run here: stop it and uninstall again"
    _LOG.error(text, _REPAIR_S, ", ".join(found))
    return 1


async def dry_run(thread: KernelThread, inputs: Inputs, output: str) -> int:
    """Print what a reconcile would write; 0, whether or not there is something."""
    wanted, _, changes = await thread.call(thread.engine.compare, inputs)
    (print_json if output == "json" else print_table)(changes, wanted.problems, sys.stdout)
    return 0


def print_table(changes: Changes, problems: tuple[Problem, ...], out: TextIO) -> None:
    """For people: one line per change, then the problems."""
    lines = [f"{verb:<7} {kind:<11} {text}" for verb, kind, text in _rows(changes)]
    lines += [f"problem {problem.reason:<11} {problem.object}: {problem.message}" for problem in problems]
    out.write("\n".join(lines or ["nothing to change"]) + "\n")


def print_json(changes: Changes, problems: tuple[Problem, ...], out: TextIO) -> None:
    """For programs: {"changes": [{verb, kind, object}], "problems": [{reason, object, message}]}."""
    document = {
        "changes": [{"verb": verb, "kind": kind, "object": text} for verb, kind, text in _rows(changes)],
        "problems": [{"reason": p.reason, "object": p.object, "message": p.message} for p in problems],
    }
    out.write(json.dumps(document, indent=2) + "\n")


def _rows(changes: Changes) -> Iterator[tuple[str, str, str]]:
    for kind, delta in changes.deltas():
        yield from (("write", kind, str(value)) for value in delta.put)
        yield from (("remove", kind, str(value)) for value in delta.delete)
    if changes.nft is not None:
        yield "write", "nftables", str(changes.nft)
