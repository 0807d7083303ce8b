"""The command: help for everything, one line for every error, meaningful exit codes."""

import subprocess

import pytest
from clustermesh_lab import cli, doctor, e2e, inventory
from clustermesh_lab.lab import Lab
from clustermesh_lab.state import Record, Store
from clustermesh_lab.topology import Topology

COMMANDS = cli._command_names(cli._parser())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: lab" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["up", "nonsense"], 2, "no preset 'nonsense'"),
        (["--lab", "Not Good", "status"], 1, "lab name 'Not Good' is not usable"),
        (["--lab", "no-such-lab", "status"], 4, "there is no lab 'no-such-lab': lab up"),
        (["status", "--lab", "no-such-lab"], 4, "there is no lab 'no-such-lab'"),
        (["--lab", "no-such-lab", "fault", "cut", "east/n1"], 4, "there is no lab"),
    ],
)
def test_errors_are_one_line_with_what_to_do(line, code, said, capsys):
    assert cli.main(line) == code
    error = capsys.readouterr().err
    assert error.startswith("lab: ")
    assert said in error
    assert error.count("\n") == 1


def test_down_of_nothing_is_fine(capsys):
    assert cli.main(["--lab", "no-such-lab", "down"]) == 0
    assert "there is no lab no-such-lab" in capsys.readouterr().err


def test_completion_is_valid_shell(capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert all(c in script for c in COMMANDS)


@pytest.fixture
def lab():
    """A lab that never ran: handles need nothing but the record."""
    return Lab(Store("unit"), Record(index=2, topology=Topology.preset("demo"), machines=True, boot="x"))


def test_the_suite_is_that_of_network_policy_unless_flags_say_otherwise(lab, tmp_path, monkeypatch):
    program = tmp_path / "e2e.test"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("CLUSTERMESH_LAB_ASSETS", str(tmp_path))
    line = e2e.command_line(lab.clusters["west"])
    assert line[0] == str(program)
    assert f"--kubeconfig={lab.clusters['west'].kubeconfig}" in line
    assert "--ginkgo.focus=Netpol" in line
    other = e2e.command_line(lab.clusters["west"], tmp_path, ["--ginkgo.focus=DNS"])
    assert [flag for flag in other if "ginkgo.focus" in flag or "report" in flag] == [
        f"--report-dir={tmp_path}",
        "--ginkgo.focus=DNS",
    ]


def test_the_inventory_names_clusters_and_machines(lab):
    found = inventory.hosts(lab)
    assert found["mesh_clusters"]["hosts"]["east"] == {
        "ansible_connection": "local",
        "mesh_kubeconfig": "/run/clustermesh-lab/unit/pki/east/admin.kubeconfig",
    }
    assert list(found["mesh_nodes"]["hosts"]) == ["east-n1", "east-n2", "west-n1", "west-n2"]
    assert found["mesh_nodes"]["hosts"]["west-n2"] == {
        "ansible_host": "10.130.2.12",
        "mesh_cluster": "west",
        "mesh_node_name": "n2",
    }
    arguments = found["mesh_nodes"]["vars"]["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in arguments
    assert "UserKnownHostsFile=/run/clustermesh-lab/unit/ssh/known_hosts" in arguments


def test_a_lab_without_machines_has_no_machine_hosts():
    bare = Lab(Store("unit"), Record(index=2, topology=Topology.preset("demo"), machines=False, boot="x"))
    assert inventory.hosts(bare)["mesh_nodes"]["hosts"] == {}


def test_unknown_places_name_the_known_ones(lab):
    with pytest.raises(Exception, match="there are east, west"):
        lab.cluster("south")
    with pytest.raises(Exception, match="east/n1, east/n2"):
        lab.node("east/n9")


def test_only_calico_asks_for_the_programs_of_calico(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = {calico: {f.package for f in doctor.examine(machines=False, calico=calico)} for calico in (False, True)}
    assert wanted[True] - wanted[False] == {"ipset"}
