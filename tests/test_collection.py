"""The tarball of the collection: what is in it, and that it works from an empty place."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import clustermeshd
import pytest
import yaml

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PLACES = {
    *("MANIFEST.json", "FILES.json", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "mesh.yml"),
    *("requirements.yml", "changelogs", "docs", "inventory", "meta", "playbooks", "plugins", "roles"),
}


def ansible(program: str, *argv: str, collections: Path) -> str:
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_NOCOLOR": "1"}
    env["ANSIBLE_HOME"] = str(collections.parent / "home")
    done = subprocess.run([BIN / program, *argv], cwd=collections.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("build")
    ansible("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(directory),
            collections=directory / "none")  # fmt: skip
    (made,) = directory.glob("clustermesh-core-*.tar.gz")
    return made


def test_collection_and_daemon_are_one_release():
    assert yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"] == clustermeshd.__version__


def test_the_tarball_has_what_runs_and_nothing_else(tarball):
    with tarfile.open(tarball) as archive:
        names = [member.name for member in archive.getmembers() if not member.isdir()]
    assert {name.partition("/")[0] for name in names} - PLACES == set()
    for wanted in (
        "meta/runtime.yml",
        "playbooks/mesh.yml",
        "plugins/modules/peering.py",
        "inventory/sample/hosts.yml",
    ):
        assert wanted in names
    rubbish = (".pyc", ".log", ".retry", ".kubeconfig", ".pem", ".key", ".swp")
    assert [name for name in names if name.endswith(rubbish) or "/." in name] == []
    assert tarball.stat().st_size < 20_000_000  # what Galaxy takes


def test_every_playbook_and_module_works_from_an_installed_tarball(tarball, tmp_path):
    place = tmp_path / "collections"
    ansible("ansible-galaxy", "collection", "install", str(tarball), "-p", str(place), "--no-deps", "--offline",
            collections=place)  # fmt: skip
    core = place / "ansible_collections" / "clustermesh" / "core"
    playbooks = sorted(f"clustermesh.core.{file.stem}" for file in (core / "playbooks").glob("*.yml"))
    assert "clustermesh.core.mesh" in playbooks
    inventory = core / "inventory" / "sample"
    ansible("ansible-playbook", "--syntax-check", "-i", str(inventory), *playbooks, collections=place)
    modules = sorted(f"clustermesh.core.{file.stem}" for file in (core / "plugins" / "modules").glob("*.py"))
    ansible("ansible-doc", "--json", *modules, collections=place)


def test_options_of_access_can_be_set_once_for_every_module_that_has_them():
    group = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["action_groups"]["cluster"]
    modules = (ROOT / "plugins" / "modules").glob("*.py")
    assert sorted(group) == sorted(m.stem for m in modules if "  - clustermesh.core.cluster\n" in m.read_text())


def test_an_execution_environment_is_told_what_the_collection_needs(tmp_path):
    """As ansible-builder reads it, from the link by which this checkout is a collection."""
    python, system = tmp_path / "python", tmp_path / "system"
    files = [f"--write-pip={python}", f"--write-bindep={system}"]
    command = [BIN / "ansible-builder", "introspect", *files, ROOT / "collections"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    needed = (ROOT / "meta" / "ee-requirements.txt").read_text().split()
    assert needed
    assert [line.partition(" ")[0] for line in python.read_text().splitlines() if line] == needed
    assert "openssh-client [platform:dpkg]" in system.read_text()
