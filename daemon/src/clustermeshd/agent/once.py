"""The ways to run that end: ``--once``, ``--once --dry-run`` and ``--uninstall``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

from clustermeshd.agent.dataplane import KernelThread
from clustermeshd.agent.engine import Inputs, log_changes
from clustermeshd.kernel.state import Changes, Marked
from clustermeshd.model.settings import Dataplane
from clustermeshd.plan.diff import diff
from clustermeshd.plan.overlay_claims import Problem

_LOG = logging.getLogger(__name__)


def uninstall(settings: Dataplane) -> int:
    """Remove every kernel object that carries our marks, and nothing else; 0 when all went."""
    thread = KernelThread(settings)
    try:
        changes = diff(Marked(), thread.engine.kernel.observe().marked)
        report = thread.engine.kernel.apply(changes)
        log_changes(changes, is_repair=False)
        for failure in report.failures:
            _LOG.error("%s: %s", failure.object, failure.reason)
        return 1 if report.failures else 0
    finally:
        thread.close()


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
