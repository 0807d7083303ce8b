"""What is built is pinned, and ready-made programs go before it."""

import re

import pytest
from clustermesh_lab import build
from clustermesh_lab.errors import LabError

PINNED = {c.source for c in build.components().values()}


@pytest.mark.parametrize("source", sorted(PINNED - {"pause"}))
def test_every_module_is_pinned_by_version_and_hash(source):
    folder = build.SOURCES / source
    required = re.findall(r"^\s+(\S+) v\S+", (folder / "go.mod").read_text(), re.MULTILINE)
    assert required
    assert (folder / "go.sum").stat().st_size > 0


@pytest.mark.parametrize(
    ("component", "module"),
    [
        ("containerd", "containerd/containerd/v2"),
        ("coredns", "coredns/coredns"),
        ("runc", "opencontainers/runc"),
        ("cni", "containernetworking/plugins"),
        ("kube", "k8s.io/kubernetes"),
    ],
)
def test_versions_and_go_mod_agree(component, module):
    text = (build.SOURCES / component / "go.mod").read_text()
    assert re.search(rf"{re.escape(module)} {re.escape(build.version(component))}\b", text)


def test_a_ready_made_program_is_used(tmp_path, monkeypatch):
    ready = tmp_path / "etcd"
    ready.write_text("#!/bin/sh\n")
    ready.chmod(0o755)
    monkeypatch.setenv("CLUSTERMESH_LAB_ASSETS", str(tmp_path))
    assert build.program("etcd") == [str(ready)]


def test_only_what_was_asked_for_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv("CLUSTERMESH_LAB_CACHE", str(tmp_path))
    assert build.missing(("calico",)) == ["calico"]
    assert not {"calico", "e2e"} & set(build.missing())
    with pytest.raises(LabError, match="'cilium' is no component of the lab: one of kube,"):
        build.ensure(("cilium",))


def test_an_unknown_program_is_refused():
    with pytest.raises(LabError, match="'docker' is no program of the lab"):
        build.program("docker")
