# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A kubeconfig in a file that its owner alone can read: compared by meaning, replaced at once."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path

from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError
from ansible_collections.clustermesh.core.plugins.module_utils._objects import digest

try:
    import yaml
except ImportError:  # the kubernetes library brings it, and client_of says so
    yaml = None

MODE = 0o600


def refuse_bad(path):
    """Raises ClusterError for a path at which no file can be written."""
    if not Path(path).parent.is_dir():
        raise ClusterError(f"kubeconfig_file is {path}: there is no folder {Path(path).parent}; make it first")
    if Path(path).is_dir():
        raise ClusterError(f"kubeconfig_file is {path}, a folder; name a file in it")


def difference(path, text):
    """A diff between the file and a kubeconfig (None: no file), None when there is none; contents as digests."""
    before, after = _found(Path(path)), {} if text is None else _shown(text, MODE)
    if before == after:
        return None
    return {"before_header": path, "after_header": path, "before": before, "after": after}


def _found(path):
    try:
        return _shown(path.read_text(encoding="utf-8", errors="replace"), stat.S_IMODE(path.stat().st_mode))
    except FileNotFoundError:
        return {}


def _shown(text, mode):
    try:
        meaning = json.dumps(yaml.safe_load(text), sort_keys=True, default=str)
    except yaml.YAMLError:
        meaning = text
    return {"kubeconfig": digest(meaning), "mode": f"{mode:04o}"}


def write(path, text):
    """Puts the text there (None: removes the file); no moment at which others can read it or find half of it."""
    if text is None:
        Path(path).unlink(missing_ok=True)
        return
    handle, name = tempfile.mkstemp(dir=Path(path).parent, prefix=".clustermesh-")  # 0600 from the beginning
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
