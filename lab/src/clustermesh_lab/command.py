"""Run a program and say something useful when it fails.

A failing `ip` or `nft` is only understandable with its own words, so they become the error's message. Programs are
started by argument list, in the machine's network namespace or in a given one.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from .errors import LabError, MissingRequirement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def in_netns(netns: Path | None, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in a network namespace; the process keeps its id."""
    return [*(["nsenter", f"--net={netns}"] if netns else []), *argv]


def run(
    *argv: str | Path,
    netns: Path | None = None,
    stdin: str | None = None,
    timeout_s: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Output of a program that has to succeed."""
    line = in_netns(netns, [str(a) for a in argv])
    try:
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=timeout_s, env=env, cwd=cwd)
    except FileNotFoundError as error:
        raise MissingRequirement(f"program {error.filename!r} is not installed", do="see `lab doctor`") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(line)}` did not end within {timeout_s:g} s") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise LabError(f"`{' '.join(line)[:300]}` failed with status {done.returncode}: {' | '.join(words[-4:])}")
    return done.stdout


def attempt(*argv: str | Path, netns: Path | None = None, timeout_s: float = 60) -> bool:
    """Whether a program succeeded; for clean-up, where the thing may already be gone."""
    try:
        run(*argv, netns=netns, timeout_s=timeout_s)
    except LabError:
        return False
    return True
