"""Whatever a user does wrong is one line that says what to set, exit status 2 and no traceback; no secret gets out."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_world import clustermesh
from clustermesh_lab import ControlPlane
from clustermeshd.cli.people import SHELLS, parser

PROGRAM = Path(sys.executable).parent / "clustermesh"
COMMANDS = (("status",), ("services", "-A"), ("eval", "all()"), ("check",))


def write(path: Path, kubeconfig: str, change: Any = lambda cluster, user: None) -> Path:
    document = yaml.safe_load(kubeconfig)
    change(document["clusters"][0]["cluster"], document["users"][0]["user"])
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_no_kubeconfig_is_told(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = clustermesh(None, *command)
    told = f"kubeconfig {tmp_path}/.kube/config: No such file or directory; name a readable one with --kubeconfig"
    assert (done.status, done.out, done.err) == (2, "", f"clustermesh: {told}\n")


def test_kubeconfig_of_the_environment_is_used_and_several_are_refused_by_name(
    east: ControlPlane, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUBECONFIG", str(east.kubeconfig))
    assert clustermesh(None, "status").status == 0
    monkeypatch.setenv("KUBECONFIG", f"{east.kubeconfig}:/nowhere")
    done = clustermesh(None, "status")
    assert (done.status, done.err) == (
        2,
        "clustermesh: $KUBECONFIG names 2 files; name one with --kubeconfig\n",
    )


@pytest.mark.parametrize(
    "content", [b"", b"[1, 2]", b"\x00\xff\xfe", b"apiVersion: v1", b"contexts: 3", b"{", b"users:\n- 1\n"], ids=repr
)
def test_a_file_that_is_no_kubeconfig_is_told(content: bytes, tmp_path: Path):
    path = tmp_path / "config"
    path.write_bytes(content)
    done = clustermesh(path, "status")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"clustermesh: kubeconfig {path}: ")
    assert done.err.count("\n") == 1


def test_a_context_that_is_not_there_is_told(east: ControlPlane):
    done = clustermesh(east.kubeconfig, "status", "--context", "south")
    assert done.status == 2
    assert "south" in done.err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_a_foreign_authority_is_told(
    command: tuple[str, ...], east: ControlPlane, remote_api: ControlPlane, tmp_path: Path
):
    foreign = base64.b64encode(remote_api.ca.read_bytes()).decode()

    def change(cluster: dict[str, str], user: object) -> None:
        cluster.pop("certificate-authority", None)
        cluster["certificate-authority-data"] = foreign

    done = clustermesh(write(tmp_path / "config", east.kubeconfig.read_text(), change), *command)
    assert (done.status, done.out) == (2, "")
    assert "TLS: " in done.err
    assert "check the CA" in done.err


def test_a_cluster_without_our_kinds_is_told(fragile_api: ControlPlane):
    for command in COMMANDS:
        done = clustermesh(fragile_api.kubeconfig, *command)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith("clustermesh: this cluster is in no mesh: ")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_a_caller_without_rights_is_told_which_one_is_missing(command: tuple[str, ...], east: ControlPlane):
    done = clustermesh(east.client("nobody"), *command)
    assert (done.status, done.out) == (2, "")
    assert 'User "nobody" cannot list resource "remoteclusterconfigurations"' in done.err


def test_a_server_that_nobody_runs_is_told(east: ControlPlane, tmp_path: Path):
    dead = write(tmp_path / "config", east.kubeconfig.read_text(), lambda c, u: c.update(server="https://127.0.0.1:1"))
    done = clustermesh(dead, "status", "--timeout", "1")
    assert (done.status, done.out) == (2, "")
    assert "https://127.0.0.1:1" in done.err


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("nonsense",),
        ("status", "-o", "xml"),
        ("status", "--timeout", "0"),
        ("status", "--timeout", "soon"),
        ("services", "-A", "-n", "x"),
        ("eval",),
        ("check", "--peer-context", "x"),
        ("completion", "tcsh"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_exit_status_2(argv: tuple[str, ...], east: ControlPlane):
    done = clustermesh(east.kubeconfig, *argv)
    assert (done.status, done.out) == (2, "")
    assert done.err


def test_options_of_the_cluster_may_stand_before_or_after_the_command(east: ControlPlane):
    before = clustermesh(None, f"--kubeconfig={east.kubeconfig}", "--timeout=5", "status", "-o", "json")
    after = clustermesh(None, "status", f"--kubeconfig={east.kubeconfig}", "--timeout=5", "-o", "json")
    assert before.status == after.status == 0
    assert before.json["server"] == after.json["server"] == east.url


def test_no_secret_is_in_any_output(east: ControlPlane, peer_kubeconfig: str):
    user = yaml.safe_load(peer_kubeconfig)["users"][0]["user"]
    key = base64.b64decode(user["client-key-data"]).decode()
    secrets = [user["client-key-data"][:60], *[line for line in key.splitlines() if len(line) > 40]]
    assert len(secrets) > 2
    for command in (*COMMANDS, ("services", "-n", "store", "cart", "--remote")):
        for form in ("table", "wide", "json", "yaml"):
            done = clustermesh(east.kubeconfig, *command, "-o", form)
            assert not [secret for secret in secrets if secret in done.out + done.err]


def test_a_reader_that_has_seen_enough_makes_no_noise(east: ControlPlane):
    line = f"{PROGRAM} --kubeconfig {east.kubeconfig} status -o json | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("", "")


# ---- help and completion


def test_every_command_has_a_help_with_examples():
    for command in ("status", "services", "eval", "check", "completion"):
        done = clustermesh(None, command, "--help")
        assert done.status == 0
        assert f"examples:\n  {'source <(' if command == 'completion' else ''}clustermesh {command}" in done.out
    assert "exit status:" in parser().format_help()


def complete(words: str) -> list[str]:
    """What bash would offer after these words, by the script that the command prints."""
    script = f"""
source <({PROGRAM} completion bash)
PATH={PROGRAM.parent}:$PATH
COMP_LINE={words!r}; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; COMP_WORDS=($COMP_LINE); COMP_CWORD=${{#COMP_WORDS[@]}}
_python_argcomplete clustermesh
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    return sorted(word.strip() for word in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("clustermesh s", ["services", "status"]),
        ("clustermesh completion ", sorted(SHELLS)),
        ("clustermesh status --w", ["--wait"]),
        ("clustermesh status -o ", ["json", "table", "wide", "yaml"]),
    ],
)
def test_bash_completes_commands_options_and_their_values(words: str, offered: list[str]):
    assert [word for word in complete(words) if not word.startswith("-") or words.endswith("--w")] == offered


@pytest.mark.parametrize(("shell", "mark"), [("zsh", "#compdef clustermesh"), ("fish", "complete --command")])
def test_zsh_and_fish_have_a_script(shell: str, mark: str):
    done = clustermesh(None, "completion", shell)
    assert done.status == 0
    assert mark in done.out


def test_completion_waits_for_no_library_of_the_commands():
    line = (
        "import sys; import clustermeshd.cli.people; print([m for m in ('aiohttp', 'kubernetes') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True).stdout == "[]\n"
