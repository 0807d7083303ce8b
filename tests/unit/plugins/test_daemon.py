"""What a node must have to run the daemons, and how a release is made of wheels."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from ansible_collections.clustermesh.core.plugins.module_utils import _services, _wheels
from ansible_collections.clustermesh.core.plugins.modules import daemon_services

OLD, NEW = "/opt/clustermesh/releases/1-old", "/opt/clustermesh/releases/2-new"
UNITS = {"agent": "[Unit]\nDescription=agent\n", "controller": "[Unit]\nDescription=controller\n"}
SECRETS = {"agent": "token: eyJagent\n", "controller": "token: eyJcontroller\n"}
KEYS = ["net.ipv4.ip_forward"]
WANTED = _services.files(UNITS, SECRETS, KEYS)
NOTHING = _services.Plan([], False, [], "", [], [], [], [], [])


def node(**changes) -> dict:
    """A node on which all is as wanted, but for ``changes``."""
    found = {file.path: _services.Found(file.content, "root", file.group, file.mode) for file in WANTED}
    good = {
        "users": {"root", "clustermesh-agent", "clustermesh-controller"},
        "folder": ("root", "root", 0o755),
        "files": found,
        "link": NEW,
        "sysctls": {"net.ipv4.ip_forward": "1"},
        "states": {"agent": (True, True), "controller": (True, True)},
        "releases": {NEW: 9.0},
    }
    return {**good, **changes}


def other(path: str, **changes) -> dict:
    """The files of that node, one of them changed."""
    files = node()["files"]
    return {**files, path: files[path]._replace(**changes)}


def plan(seen: dict, keep: int = 3) -> _services.Plan:
    return _services.plan(WANTED, NEW, keep, seen)


def test_a_node_as_it_must_be_is_left_alone_and_nothing_is_shown():
    assert plan(node()) == NOTHING
    assert _services.diff(plan(node()), node()) == []


AGENT_UNIT, AGENT_KUBECONFIG = "/etc/systemd/system/clustermesh-agent.service", "/etc/clustermesh/agent.kubeconfig"


@pytest.mark.parametrize(
    ("changes", "restart"),
    [
        ({"link": OLD}, ["agent", "controller"]),
        ({"link": ""}, ["agent", "controller"]),
        ({"files": other(AGENT_UNIT, content="[Unit]\n")}, ["agent"]),
        ({"files": other(AGENT_KUBECONFIG, content="token: old\n")}, ["agent"]),
        ({"files": other(AGENT_KUBECONFIG, mode=0o644)}, ["agent"]),
        ({"files": other(AGENT_KUBECONFIG, group="root")}, ["agent"]),
        ({"files": other(AGENT_UNIT, owner="daemon")}, ["agent"]),
        ({"files": other(_services.SYSCTLS, content="")}, []),
        ({"sysctls": {"net.ipv4.ip_forward": "0"}}, []),
        ({"users": {"clustermesh-agent"}}, []),
    ],
)
def test_what_changed_is_restarted_and_nothing_else(changes, restart):
    todo = plan(node(**changes))
    assert todo.restart == restart
    assert _services.diff(todo, node(**changes)) != []


def test_a_service_that_stands_still_is_started_and_one_that_is_off_is_enabled():
    seen = node(states={"agent": (False, True), "controller": (True, False)})
    todo = plan(seen)
    assert (todo.start, todo.enable, todo.restart) == (["agent"], ["controller"], [])
    assert [entry["after"] for entry in _services.diff(todo, seen)] == ["enabled\n", "started\n"]


def test_a_virgin_node_gets_everything():
    empty = {"users": set(), "folder": None, "files": {}, "link": "", "states": {}, "releases": {}}
    todo = plan(node(**empty, sysctls={"net.ipv4.ip_forward": "0"}))
    assert todo._replace(files=[]) == _services.Plan(
        users=["clustermesh-agent", "clustermesh-controller"],
        folder=True,
        files=[],
        link=NEW,
        sysctls=["net.ipv4.ip_forward"],
        restart=["agent", "controller"],
        start=[],
        enable=["agent", "controller"],
        remove=[],
    )
    assert todo.files == WANTED


class Module:
    """As far as AnsibleModule runs programs."""

    @staticmethod
    def run_command(argv: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("exec sleep 60", "clustermesh-agent.service: not ready within 0.2 seconds"),
        ("echo 'Job for clustermesh-agent.service failed.' >&2; exit 1", "Job for clustermesh-agent.service failed."),
        ("exit 5", "clustermesh-agent.service: systemctl restart ended with 5"),
    ],
    ids=["waits for its API server", "fails", "says nothing"],
)
def test_services_that_do_not_get_ready_are_not_waited_for_without_end(does, why, tmp_path, monkeypatch):
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(daemon_services, "READY_S", 0.2)
    with pytest.raises(daemon_services.NotReady) as caught:
        daemon_services.start_all(Module, "restart", ["agent"])
    assert str(caught.value) == why


def test_no_kubeconfig_is_shown():
    seen = node(files=other(AGENT_KUBECONFIG, content="token: eyJbefore\n"))
    text = str(_services.diff(plan(seen), seen))
    assert text.count("sha256:") == 2
    assert "eyJ" not in text


def test_the_release_that_runs_and_the_one_before_stay_whatever_their_age():
    releases = {OLD: 1.0, NEW: 2.0, "/r/3": 3.0, "/r/4": 4.0, "/r/5": 5.0}
    assert plan(node(link=OLD, releases=releases)).remove == ["/r/4", "/r/3"]
    assert plan(node(link=OLD, releases=releases), keep=1).remove == ["/r/5", "/r/4", "/r/3"]
    assert plan(node(releases=releases), keep=4).remove == [OLD]
    assert plan(node(link=OLD, releases=releases), keep=9).remove == []


class Systemd:
    """A module whose programs end well, but for the ``broken`` one; keeps what agent and link were at a restart."""

    check_mode = False

    def __init__(self, place: Path, broken: str = "") -> None:
        self.params = {"root": str(place / "opt"), "units": UNITS}
        self.kubeconfig, self.link, self.broken = place / "etc/agent.kubeconfig", place / "opt/current", broken
        self.restarted_with: list[tuple] = []

    def run_command(self, argv: list[str]) -> tuple[int, str, str]:
        if "restart" in argv:
            self.restarted_with.append(
                (argv[argv.index("restart") + 1 :], self.kubeconfig.read_text(), str(self.link.readlink()))
            )
        is_broken = self.broken in argv
        return int(is_broken), "", "it timed out" if is_broken else ""

    def set_default_selinux_context(self, path: str, changed: bool) -> bool:
        return changed


def before(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, _services.Found]:
    """The files of a node on which the agent of release OLD ran, with those of NEW written over them."""
    monkeypatch.setattr(_services, "SETTINGS", str(place / "etc"))
    monkeypatch.setattr(_services, "UNITS", str(place / "units"))
    paths = [
        place / "etc/agent.kubeconfig",
        place / "units/clustermesh-agent.service",
        place / "etc/controller.kubeconfig",
    ]
    for path, mode in zip(paths, (0o640, 0o644, 0o600), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{path.name} of before\n")
        path.chmod(mode)
    seen = {str(path): daemon_services.content(path) for path in paths}
    for path in paths:
        path.write_text("token: new\n")
        path.chmod(0o666)
    (place / "opt").mkdir()
    (place / "opt/current").symlink_to(NEW)
    return seen


def test_what_ran_before_comes_back_with_link_units_and_kubeconfigs_before_it_is_restarted(tmp_path, monkeypatch):
    seen, module = before(tmp_path, monkeypatch), Systemd(tmp_path)
    assert daemon_services.go_back(module, {"files": seen, "link": OLD}) == "release 1-old runs again"
    assert module.restarted_with == [(["clustermesh-agent.service"], "agent.kubeconfig of before\n", OLD)]
    assert {path: daemon_services.content(Path(path)) for path in seen} == seen


@pytest.mark.parametrize("broken", ["restart", "daemon-reload"])
def test_what_does_not_run_again_either_is_said_without_a_secret(tmp_path, monkeypatch, broken):
    seen = before(tmp_path, monkeypatch)
    said = daemon_services.go_back(Systemd(tmp_path, broken), {"files": seen, "link": OLD})
    assert said == "release 1-old did not get ready either (it timed out)"


def test_a_file_that_cannot_be_put_back_is_named_without_its_content(tmp_path, monkeypatch):
    seen = before(tmp_path, monkeypatch)
    lost = next(iter(seen))
    gone = {lost: seen[lost]._replace(owner="no-such-user")}
    said = daemon_services.go_back(Systemd(tmp_path), {"files": gone, "link": OLD})
    assert said.startswith("release 1-old did not get ready either (")
    assert "no-such-user" in said
    assert "of before" not in said


# ---- wheels


def archive(path: Path, **wheels: dict[str, str]) -> dict[str, str]:
    """A tar archive of wheels, as ``tar -C DIRECTORY -cf FILE .`` makes it; name -> digest."""
    sums = {}
    with tarfile.open(path, "w") as tar:
        for name, files in wheels.items():
            data = io.BytesIO()
            with zipfile.ZipFile(data, "w") as wheel:
                for file, text in files.items():
                    wheel.writestr(file, text)
            member = tarfile.TarInfo(f"./{name}.whl")
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))
            sums[f"{name}.whl"] = hashlib.sha256(data.getvalue()).hexdigest()
    return sums


def test_digests_are_those_that_sha256sum_prints(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"a")
    (tmp_path / "b.whl").write_bytes(b"b")
    printed = subprocess.run(["sha256sum", "a.whl", "b.whl"], cwd=tmp_path, check=True, capture_output=True, text=True)
    wanted = {f"{name}.whl": hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert _wheels.digests(printed.stdout) == wanted


def test_wheels_are_unpacked_and_their_program_runs(tmp_path):
    sums = archive(tmp_path / "w.tar", one={"one.py": "def main():\n    return 7\n"}, two={"two/__init__.py": ""})
    _wheels.unpack(tmp_path / "w.tar", sums, tmp_path / "lib")
    assert sorted(str(p.relative_to(tmp_path / "lib")) for p in (tmp_path / "lib").rglob("*.py")) == [
        "one.py",
        "two/__init__.py",
    ]
    program = tmp_path / "program"
    program.write_text(_wheels.program(sys.executable, "one", "main"))
    program.chmod(0o755)
    assert subprocess.run([program], env={"PYTHONPATH": str(tmp_path / "lib")}, check=False).returncode == 7


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        ({"one.whl": "0" * 64}, "one.whl is not the one of this release"),
        ({"three.whl": "0" * 64}, "three.whl is not among the wheels"),
    ],
)
def test_a_wheel_that_is_not_the_promised_one_is_refused_before_anything_of_it_is_there(tmp_path, sums, reason):
    archive(tmp_path / "w.tar", one={"one.py": ""})
    with pytest.raises(_wheels.BadWheel, match=reason):
        _wheels.unpack(tmp_path / "w.tar", sums, tmp_path / "lib")
    assert not (tmp_path / "lib").exists()


def test_a_wheel_with_files_for_other_places_is_refused(tmp_path):
    sums = archive(tmp_path / "w.tar", one={"one-1.data/scripts/run": ""})
    with pytest.raises(_wheels.BadWheel, match="other places"):
        _wheels.unpack(tmp_path / "w.tar", sums, tmp_path / "lib")
