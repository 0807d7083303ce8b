"""The supervisor, with real processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from clustermesh_lab.process import ProcessId


def until(claim, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not (value := claim()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return value


@pytest.fixture
def supervised(tmp_path):
    """Starts a supervisor of given components; (control directory, logs)."""
    started = []

    def start(*components):
        spec = tmp_path / "spec.json"
        spec.write_text(json.dumps({"control": str(tmp_path), "logs": str(tmp_path), "components": components}))
        child = subprocess.Popen(
            [sys.executable, "-m", "clustermesh_lab.inside.supervise", str(spec)], stdout=subprocess.DEVNULL
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.terminate()
        child.wait(10)


def running(directory, name="x"):
    return ProcessId.read(directory / f"{name}.pid")


def test_what_is_killed_starts_again(supervised, tmp_path):
    supervised({"name": "x", "argv": ["sleep", "60"]})
    first = until(lambda: running(tmp_path))
    first.send(signal.SIGKILL)
    second = until(lambda: (found := running(tmp_path)) and found != first and found)
    assert second.pid != first.pid


def test_what_is_held_stays_down_until_released(supervised, tmp_path):
    supervised({"name": "x", "argv": ["sleep", "60"]})
    first = until(lambda: running(tmp_path))
    (tmp_path / "x.hold").touch()
    first.send(signal.SIGTERM)
    until(lambda: not first.is_alive())
    time.sleep(1)
    assert running(tmp_path) is None
    (tmp_path / "x.hold").unlink()
    until(lambda: running(tmp_path))


def test_a_program_waits_for_what_it_needs(supervised, tmp_path):
    needed = tmp_path / "socket"
    supervised({"name": "x", "argv": ["sleep", "60"], "wait_for": str(needed)})
    time.sleep(0.5)
    assert running(tmp_path) is None
    needed.touch()
    until(lambda: running(tmp_path))


def test_its_end_is_the_end_of_all(supervised, tmp_path):
    child = supervised({"name": "x", "argv": ["sleep", "60"]}, {"name": "y", "argv": ["sleep", "60"]})
    both = [until(lambda n=n: running(tmp_path, n)) for n in "xy"]
    child.terminate()
    child.wait(10)
    assert not any(p.is_alive() for p in both)


def test_output_goes_to_the_log_and_signals_are_not_blocked(supervised, tmp_path):
    supervised({"name": "x", "argv": ["sh", "-c", "grep SigBlk /proc/self/status; sleep 60"]})
    line = until(lambda: (tmp_path / "x.log").exists() and (tmp_path / "x.log").read_text())
    assert int(line.split()[1], 16) & (1 << (signal.SIGTERM - 1)) == 0


def test_programs_inside_need_the_standard_library_only():
    modules = ("init", "podnet", "relay", "supervise")
    code = "import sys; " + "; ".join(f"import clustermesh_lab.inside.{m}" for m in modules)
    code += "; print(*[m for m in ('yaml', 'cryptography') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == ""
