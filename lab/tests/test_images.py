"""Images: same directory, same archive; a tree of containerd content shared by links."""

import hashlib
import json
import tarfile

import pytest
from clustermesh_lab import containerd, images
from clustermesh_lab.errors import LabError


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "web").write_text("#!/bin/sh\n")
    (folder / "web").chmod(0o755)
    return folder


def read(archive, name):
    with tarfile.open(archive) as tar:
        return tar.extractfile(name).read()


def test_every_digest_of_the_layout_holds(root, tmp_path):
    settings = images.Settings(entrypoint=("/web",), user="999", env=("A=b",))
    archive = images.write_image(tmp_path / "x.tar", "lab.local/web:1", root, settings)
    (entry,) = json.loads(read(archive, "index.json"))["manifests"]
    manifest = json.loads(read(archive, "blobs/sha256/" + entry["digest"].removeprefix("sha256:")))
    for blob in (manifest["config"], *manifest["layers"]):
        content = read(archive, "blobs/sha256/" + blob["digest"].removeprefix("sha256:"))
        assert "sha256:" + hashlib.sha256(content).hexdigest() == blob["digest"]
        assert len(content) == blob["size"]
    config = json.loads(read(archive, "blobs/sha256/" + manifest["config"]["digest"].removeprefix("sha256:")))
    assert config["config"]["Entrypoint"] == ["/web"]
    assert config["config"]["User"] == "999"
    assert entry["annotations"]["io.containerd.image.name"] == "lab.local/web:1"


def test_the_same_directory_gives_the_same_archive(root, tmp_path):
    first = images.write_image(tmp_path / "1.tar", "a:1", root).read_bytes()
    (root / "web").touch()
    assert images.write_image(tmp_path / "2.tar", "a:1", root).read_bytes() == first


@pytest.mark.parametrize("name", ["web", "Web:1", ":1", "web:"])
def test_a_name_that_containerd_would_not_take_is_refused(root, tmp_path, name):
    with pytest.raises(LabError, match="no image name"):
        images.write_image(tmp_path / "x.tar", name, root)


def test_content_is_shared_and_databases_are_not(tmp_path):
    source = tmp_path / "template"
    (source / "layer").mkdir(parents=True)
    (source / "layer/file").write_text("x")
    (source / "layer/link").symlink_to("file")
    (source / "meta.db").write_text("x")
    containerd.populate(source, tmp_path / "node")
    assert (tmp_path / "node/layer/file").samefile(source / "layer/file")
    assert (tmp_path / "node/layer/link").is_symlink()
    assert not (tmp_path / "node/meta.db").samefile(source / "meta.db")
