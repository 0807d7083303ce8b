"""Processes that are known by id and start time.

A process id alone is not an identity: it is reused, and a lab that was left behind for a week must never kill what
got its old ids since. The start time from /proc tells them apart, and a pidfd holds the one that was checked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .command import in_netns
from .errors import LabError, MissingRequirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


_left_running: list[subprocess.Popen[bytes]] = []
# A process enters a control group by its own act, before it becomes the program: nothing is ever started outside.
_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1"; shift; done; shift; exec "$@"'


def joining(cgroup_files: Sequence[Path], argv: Sequence[str]) -> list[str]:
    """The command line that enters control groups, then runs `argv` under the same process id."""
    return ["sh", "-c", _JOIN, "sh", *map(str, cgroup_files), "--", *argv] if cgroup_files else list(argv)


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None when there is none (a zombie counts as none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a running process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, never its successor under the same number."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The running process `pid`; None when there is none."""
        started = start_time(pid)
        return None if started is None else cls(pid, started)

    @classmethod
    def read(cls, file: Path) -> ProcessId | None:
        """A recorded process that still runs; None when the file or the process is gone."""
        try:
            pid, started = file.read_text().split()
            found = cls(int(pid), int(started))
        except (OSError, ValueError):
            return None
        return found if found.is_alive() else None

    def write(self, file: Path) -> None:
        """Record it; `read` takes it back."""
        beside = file.with_suffix(".new")
        beside.write_text(f"{self.pid} {self.started}\n")
        beside.replace(file)

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return start_time(self.pid) == self.started

    def send(self, signum: int) -> bool:
        """Signal it; False when it has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(pidfd, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True


def reap() -> None:
    """Collect those of our detached children that have ended."""
    _left_running[:] = [child for child in _left_running if child.poll() is None]


def wait_gone(processes: Iterable[ProcessId], timeout_s: float) -> list[ProcessId]:
    """Those which still run after at most that long."""
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while left := [p for p in left if p.is_alive()]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return left


def spawn_detached(
    argv: Sequence[str],
    *,
    log: Path,
    netns: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    cgroup_files: Sequence[Path] = (),
) -> ProcessId:
    """Start a program that is to outlive this process."""
    child = spawn(argv, log=log, netns=netns, env=env, stdin=stdin, cgroup_files=cgroup_files)
    _left_running.append(child)  # else Python warns that nobody waits for it
    found = ProcessId.of(child.pid)
    if found is None:
        words = log.read_text(errors="replace").splitlines()[-3:]
        raise LabError(f"{argv[0]} ended at once: {' | '.join(words)}", do=f"see {log}")
    return found


def end(processes: Sequence[ProcessId], *, grace_s: float = 3) -> None:
    """SIGTERM, then SIGKILL after the grace time. Ends paused ones too."""
    for process in processes:
        process.send(signal.SIGTERM)
        process.send(signal.SIGCONT)
    for process in wait_gone(processes, grace_s):
        process.send(signal.SIGKILL)
    wait_gone(processes, 5)


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    netns: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    cgroup_files: Sequence[Path] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, output appended to `log`, inside the given control groups."""
    line = joining(cgroup_files, in_netns(netns, argv))
    with log.open("ab") as out:
        log.chmod(0o600)
        try:
            child = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise MissingRequirement(f"program {error.filename!r} is not installed", do="see `lab doctor`") from error
    if stdin is not None and child.stdin:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(stdin)
            child.stdin.close()
    return child
