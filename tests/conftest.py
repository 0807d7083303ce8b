"""Lets the tests import this checkout as ansible_collections.clustermesh.core, with Ansible's own importer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

_ROOT = Path(__file__).parent.parent
_PLACE = tempfile.TemporaryDirectory(prefix="clustermesh-collections-")
_LINK = Path(_PLACE.name) / "ansible_collections" / "clustermesh" / "core"
_LINK.parent.mkdir(parents=True)
_LINK.symlink_to(_ROOT)
_AnsibleCollectionFinder(paths=[_PLACE.name])._install()
