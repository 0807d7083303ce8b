"""The image: the same input gives the same digest, and what does not belong into it is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from image import debian
from image.__main__ import _check_python
from image.error import ImageError
from image.tree import SITE, Tree, checked_wheels

ROOT = Path(__file__).parents[1]


def wheel(folder: Path, name: str, files: dict[str, str], year: int = 2020) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(file, (year, 1, 1, 0, 0, 0)), text)
    return path


def test_order_and_times_of_the_input_do_not_show(tmp_path: Path):
    a = wheel(tmp_path, "a-1-py3-none-any.whl", {"a/one.py": "1", "a/two.py": "2"})
    b = wheel(tmp_path, "b-1-py3-none-any.whl", {"b.py": "3"})
    later = wheel(tmp_path, "c-1-py3-none-any.whl", {"a/two.py": "2", "a/one.py": "1"}, year=2025)
    tars = set()
    for inputs in ((a, b), (b, later)):
        tree = Tree()
        for path in inputs:
            tree.add_wheel(path)
        tars.add(tree.tar(7))
    assert len(tars) == 1
    with tarfile.open(fileobj=io.BytesIO(tars.pop())) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid) for m in members} == {(7, 0, 0)}
    assert f"{SITE}/a/one.py" in [m.name for m in members]


def test_one_path_with_two_contents_is_refused(tmp_path: Path):
    tree = Tree()
    tree.add_wheel(wheel(tmp_path, "a-1-py3-none-any.whl", {"a.py": "1"}))
    with pytest.raises(ImageError, match=r"a\.py comes from two packages"):
        tree.add_wheel(wheel(tmp_path, "b-1-py3-none-any.whl", {"a.py": "2"}))


def test_a_wheel_that_is_not_the_one_of_the_release_is_refused(tmp_path: Path):
    good = wheel(tmp_path, "a-1-py3-none-any.whl", {"a.py": "1"})
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(good.read_bytes()).hexdigest()}  {good.name}\n")
    assert checked_wheels(tmp_path) == [good]
    wheel(tmp_path, "b-1-py3-none-any.whl", {"b.py": "1"})
    with pytest.raises(ImageError, match=r"b-1-py3-none-any\.whl in .* is not as SHA256SUMS says: run `make wheels`"):
        checked_wheels(tmp_path)


def test_a_compiled_wheel_of_another_python_is_refused():
    packages = [debian.Package("", "python3.11-minimal", "3.11.2-6")]
    _check_python([Path("a-1-cp311-cp311-linux_x86_64.whl"), Path("b-1-py3-none-any.whl")], packages)
    with pytest.raises(ImageError, match=r"a-1-cp312.* is not for the image's python3\.11"):
        _check_python([Path("a-1-cp312-cp312-linux_x86_64.whl")], packages)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_built_twice_it_is_the_same_image_without_caches_logs_and_machine_ids(tmp_path: Path):
    outputs = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for out in outputs:
        line = [sys.executable, "-m", "image", "--output", str(out)]
        # the commit is part of the image; here others may come between the two
        commit = {"SOURCE_DATE_EPOCH": "1700000000", "GIT_DIR": "/nonexistent"}
        done = subprocess.run(line, cwd=ROOT, env=os.environ | commit, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (out.read_bytes() for out in outputs)
    assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()
    with tarfile.open(outputs[0]) as archive:
        blobs = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    index = json.loads(blobs["index.json"])
    manifest = json.loads(blobs[f"blobs/sha256/{index['manifests'][0]['digest'].partition(':')[2]}"])
    layer = blobs[f"blobs/sha256/{manifest['layers'][0]['digest'].partition(':')[2]}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        names = files.getnames()
        modes = {m.mode for m in files.getmembers() if m.isfile()}
    assert {"usr/bin/clustermeshd", "usr/bin/python3", f"{SITE}/clustermeshd/__init__.py"} <= set(names)
    bad = ("__pycache__", ".pyc", "var/log/", "var/cache/apt", "machine-id", "ssh_host")
    assert [name for name in names if any(part in name for part in bad)] == []
    assert not any(mode & 0o7000 for mode in modes)
