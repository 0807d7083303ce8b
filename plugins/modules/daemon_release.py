#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_release
short_description: Install a release of the daemons on a node
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Makes a virtual environment of wheels that are on the node already, without any network and without pip.
  - A release is whole once O(path) has a file C(SHA256SUMS). What an interrupted run left is made anew, a whole one is not
    touched.
  - Every wheel must have the digest that O(sums) gives, and both daemons must load. Their bytecode is compiled once, here, since
    the services may not write.
options:
  path:
    description: Folder of the release.
    type: path
    required: true
  archive:
    description: Tar archive of the wheels on the node; it is removed afterwards.
    type: path
    required: true
  sums:
    description: Digests and names of the wheels, as C(sha256sum) prints them.
    type: str
    required: true
  python:
    description: Python 3.11 or newer of the node.
    type: path
    default: /usr/bin/python3
extends_documentation_fragment:
  - clustermesh.core.attributes.node_change
"""

EXAMPLES = r"""
- name: Install a release
  clustermesh.core.daemon_release:
    path: /opt/clustermesh/releases/0.1.0-96678981
    archive: /opt/clustermesh/releases/clustermeshd-0.1.0-96678981.tar
    sums: "{{ lookup('ansible.builtin.file', 'wheels/SHA256SUMS') }}"
"""

RETURN = r"""
path:
  description: Folder of the release.
  type: str
  returned: success
"""

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _wheels

NEEDS = """
import ctypes, sys, venv
ctypes.CDLL("libnftables.so.1")
if sys.version_info < (3, 11):
    raise SystemExit("it is too old")
"""
LIBRARIES = "import sysconfig; print(sysconfig.get_path('purelib'))"
# loads both daemons, which compiles them, and says which programs there are
LOAD = """
import clustermeshd.agent.main, clustermeshd.cli.daemon, clustermeshd.controller.main
from importlib.metadata import distribution
for point in distribution("clustermeshd").entry_points.select(group="console_scripts"):
    print(point.name, point.module, point.attr)
"""
COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": ""}


class Broken(Exception):
    """The release cannot be made; says why and what to do."""


def output(module, *argv):
    """What a program prints."""
    code, out, errors = module.run_command([str(part) for part in argv], environ_update=COMPILED)
    if code:
        last = (errors.strip().splitlines() or [f"it ended with {code}"])[-1]
        raise Broken(
            f"{module.params['python']} of this node cannot run this release ({last}): "
            "make the wheels for its version and machine, or set mesh_daemon_python"
        )
    return out


def check_needs(module):
    """Refuses a node without what the daemons need."""
    python = module.params["python"]
    code, errors = 1, "it is not there"
    if shutil.which(python):
        code, dummy, errors = module.run_command([python, "-c", NEEDS])
    if code:
        found = (errors.strip().splitlines() or [f"it ended with {code}"])[-1]
        raise Broken(
            f"{python} must be Python 3.11 or newer with venv, and libnftables must be there ({found}): "
            "install python3-venv and libnftables1, or set mesh_daemon_python"
        )


def install(module, path):
    """Makes the release; the file that says it is whole comes last."""
    os.umask(0o022)  # the users of the services read it, whatever root's own habit is
    shutil.rmtree(path, ignore_errors=True)
    output(module, module.params["python"], "-m", "venv", "--without-pip", path)
    python = path / "bin" / "python"
    place = output(module, python, "-c", LIBRARIES).strip()
    _wheels.unpack(module.params["archive"], _wheels.digests(module.params["sums"]), place)
    for line in output(module, python, "-c", LOAD).splitlines():
        program = path / "bin" / line.split()[0]
        program.write_text(_wheels.program(python, *line.split()[1:]), encoding="utf-8")
        program.chmod(0o755)
    output(module, path / "bin" / "clustermeshd", "--version")
    (path / "SHA256SUMS").write_text(module.params["sums"].rstrip("\n") + "\n", encoding="utf-8")


def main():
    """Runs the module."""
    arguments = {
        "path": {"type": "path", "required": True},
        "archive": {"type": "path", "required": True},
        "sums": {"type": "str", "required": True},
        "python": {"type": "path", "default": "/usr/bin/python3"},
    }
    module = AnsibleModule(arguments, supports_check_mode=True)
    path, archive = Path(module.params["path"]), Path(module.params["archive"])
    is_whole = (path / "SHA256SUMS").exists()
    try:
        if not is_whole:
            check_needs(module)
        if not is_whole and not module.check_mode:
            install(module, path)
    except (Broken, _wheels.BadWheel, OSError) as problem:
        if not module.check_mode:
            shutil.rmtree(path, ignore_errors=True)
        module.fail_json(msg=str(problem))
    finally:
        if not module.check_mode and archive.exists():
            archive.unlink()
    diff = {"before": "", "after": f"{path}\n"} if not is_whole else {}
    module.exit_json(changed=not is_whole, path=str(path), diff=diff)


if __name__ == "__main__":
    main()
