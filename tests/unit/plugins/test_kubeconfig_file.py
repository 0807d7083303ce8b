"""When the file of a kubeconfig is written, and what anybody can see of it."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.clustermesh.core.plugins.module_utils import _access, _kubeconfig_file
from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError

TEXT = _access.kubeconfig("mesh", "https://paris:6443", "PEM\n", "a-token")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "paris.kubeconfig"


def differs(file, text: str | None = TEXT) -> bool:
    return _kubeconfig_file.difference(str(file), text) is not None


def test_a_file_is_for_its_owner_alone_and_nothing_stays_beside_it(file):
    file.write_text("others could read this\n")
    file.chmod(0o644)
    _kubeconfig_file.write(str(file), TEXT)
    assert (file.read_text(), file.stat().st_mode & 0o777) == (TEXT, 0o600)
    assert list(file.parent.iterdir()) == [file]
    assert not differs(file)


def test_only_another_meaning_or_mode_is_a_difference(file):
    assert differs(file)
    file.write_text(yaml.safe_dump(yaml.safe_load(TEXT)))
    file.chmod(0o600)
    assert file.read_text() != TEXT
    assert not differs(file)
    assert differs(file, TEXT.replace("a-token", "another"))
    file.chmod(0o640)
    assert differs(file)


@pytest.mark.parametrize("content", ["", "a: [", "\x00", "- 1"])
def test_whatever_is_there_is_replaced(file, content):
    file.write_text(content)
    assert differs(file)


def test_a_diff_shows_digests_and_rights(file):
    file.write_text("token: an-old-token\n")
    file.chmod(0o644)
    found = _kubeconfig_file.difference(str(file), TEXT)
    assert (found["before"]["mode"], found["after"]["mode"]) == ("0644", "0600")
    assert found["before"]["kubeconfig"].startswith("sha256:")
    assert "token" not in str(found)


def test_a_file_that_is_to_be_gone_goes_once(file):
    file.write_text(TEXT)
    assert differs(file, None)
    _kubeconfig_file.write(str(file), None)
    assert not differs(file, None)
    assert not file.exists()


def test_a_link_is_replaced_and_what_it_leads_to_stays(file, tmp_path):
    (tmp_path / "elsewhere").write_text("theirs\n")
    file.symlink_to(tmp_path / "elsewhere")
    _kubeconfig_file.write(str(file), TEXT)
    assert not file.is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "theirs\n"


def test_a_path_that_cannot_be_is_named(tmp_path):
    with pytest.raises(ClusterError, match=f"there is no folder {tmp_path}/none; make it first"):
        _kubeconfig_file.refuse_bad(f"{tmp_path}/none/paris.kubeconfig")
    with pytest.raises(ClusterError, match="a folder; name a file in it"):
        _kubeconfig_file.refuse_bad(str(tmp_path))
