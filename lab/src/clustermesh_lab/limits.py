"""The two limits of the machine that a few nodes exhaust.

inotify instances are counted for each user of the whole machine, and 128, a common default, is what eight nodes need:
beyond it programs hang or exit without a word. They are the one machine-wide setting the lab touches: raised when the
first lab starts, put back when the last one goes.
"""

from __future__ import annotations

import json
from pathlib import Path

from .places import RUN, private_file
from .progress import say

NEEDED = {"fs/inotify/max_user_instances": 8192, "fs/inotify/max_user_watches": 524288}
_RECORD = RUN / "limits.json"
_SYS = Path("/proc/sys")


def raise_limits() -> None:
    """Raise what is too low, and write down what it was. Call it with all labs locked."""
    before = {name: int((_SYS / name).read_text()) for name in NEEDED}
    low = {name: value for name, value in before.items() if value < NEEDED[name]}
    if not low:
        return
    if not _RECORD.exists():
        private_file(_RECORD, json.dumps(low))
    for name in low:
        (_SYS / name).write_text(str(NEEDED[name]))
    say(f"raised {', '.join(name.replace('/', '.') for name in low)} for as long as a lab runs")


def restore_limits() -> None:
    """Put back what was raised. Call it when no lab is left, with all labs locked."""
    try:
        before: dict[str, int] = json.loads(_RECORD.read_text())
    except (OSError, ValueError):
        return
    for name, value in before.items():
        if name in NEEDED and (_SYS / name).read_text().strip() == str(NEEDED[name]):
            (_SYS / name).write_text(str(value))
    _RECORD.unlink()
