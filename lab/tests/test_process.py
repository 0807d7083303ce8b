"""A recorded process is that process, never another one under its number."""

import os
import signal
import subprocess
import sys
import time

import pytest
from clustermesh_lab.process import ProcessId, end, joining, start_time


@pytest.fixture
def sleeper():
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait()


def test_a_recycled_id_is_never_signalled(sleeper):
    live = ProcessId.of(sleeper.pid)
    recycled = ProcessId(sleeper.pid, live.started - 1)
    assert not recycled.is_alive()
    assert recycled.send(signal.SIGKILL) is False
    end([recycled])
    assert sleeper.poll() is None


def test_the_recorded_process_is_found_again_and_ended(sleeper, tmp_path):
    file = tmp_path / "x.pid"
    ProcessId.of(sleeper.pid).write(file)
    found = ProcessId.read(file)
    assert found == ProcessId.of(sleeper.pid)
    end([found])
    assert sleeper.wait(1) == -signal.SIGTERM
    assert ProcessId.read(file) is None


def test_a_paused_process_ends_too(sleeper):
    found = ProcessId.of(sleeper.pid)
    found.send(signal.SIGSTOP)
    end([found], grace_s=1)
    assert sleeper.wait(1) in (-signal.SIGTERM, -signal.SIGKILL)


def test_one_that_ignores_sigterm_is_killed(tmp_path):
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    child.stdout.readline()
    end([ProcessId.of(child.pid)], grace_s=0.1)
    assert child.wait(1) == -signal.SIGKILL
    child.stdout.close()


def test_a_zombie_counts_as_gone():
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 5
    while start_time(child.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.wait()


@pytest.mark.parametrize("content", ["", "x y", "12", "99999999 1"])
def test_a_broken_record_is_no_process(tmp_path, content):
    file = tmp_path / "x.pid"
    file.write_text(content)
    assert ProcessId.read(file) is None


def test_joining_writes_itself_in_and_keeps_arguments_whole(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    line = joining(files, ["printf", "%s|", "two words", "--", "$HOME"])
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "two words|--|$HOME|"
    assert [f.read_text() for f in files] == ["0\n", "0\n"]


def test_our_own_start_time_is_known():
    assert start_time(os.getpid()) > 0
