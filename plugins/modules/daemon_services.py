#!/usr/bin/python
# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_services
short_description: Run a release of the daemons on a node
version_added: 0.1.0
author: The Clustermesh authors (@clustermesh)
description:
  - Has users, settings and units of the daemons on a node, lets it forward packets, links C(current) to a release that is
    installed, restarts at once what changed, and waits until all of it says that it is ready.
  - When a daemon does not get ready within 90 seconds, units, kubeconfigs and link go back to what they were, the release
    before runs again, and the module fails with the reason.
  - Removes releases beyond O(keep) once all is well.
options:
  release:
    description: Folder of the release, as M(clustermesh.core.daemon_release) made it.
    type: path
    required: true
  root:
    description: Folder of the link C(current) and of C(releases).
    type: path
    default: /opt/clustermesh
  units:
    description: Name of each service that runs here, V(agent) and V(controller), to the content of its unit.
    type: dict
    required: true
  kubeconfigs:
    description: Name of each of them to the content of its kubeconfig.
    type: dict
    required: true
  keep:
    description: Releases to keep, the one that runs and the one before it always.
    type: int
    default: 3
notes:
  - O(kubeconfigs) are secrets; set C(no_log) on the task.
extends_documentation_fragment:
  - clustermesh.core.attributes.node_change
"""

EXAMPLES = r"""
- name: Run an agent
  clustermesh.core.daemon_services:
    release: /opt/clustermesh/releases/0.1.0-96678981
    units: {agent: "{{ lookup('ansible.builtin.file', 'agent.service') }}"}
    kubeconfigs: {agent: "{{ oslo_daemons.agent_kubeconfig }}"}
  no_log: true
"""

RETURN = r"""
restarted:
  description: Services that were restarted.
  type: list
  elements: str
  returned: success
removed:
  description: Old releases that were removed.
  type: list
  elements: str
  returned: success
"""

import grp
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.clustermesh.core.plugins.module_utils import _services


READY_S = 90
TIMED_OUT = 124  # of timeout(1)


class NotReady(Exception):
    """A program failed; says which and why."""


def call(module, *argv):
    """Runs a program to its end."""
    code, dummy, errors = module.run_command(list(argv))
    if code:
        raise NotReady(" ".join(errors.split()) or f"{' '.join(argv)} ended with {code}")


def start_all(module, verb, services):
    """Starts or restarts services and waits until they are ready, which one without its API server is not."""
    units = [_services.unit(service) for service in services]
    code, dummy, errors = module.run_command(["timeout", str(READY_S), "systemctl", verb, *units])
    if code:
        why = f"not ready within {READY_S} seconds" if code == TIMED_OUT else f"systemctl {verb} ended with {code}"
        raise NotReady(" ".join(errors.split()) or f"{', '.join(units)}: {why}")


# ---- the node as it is


def name_of(find, number):
    """Name of a user or group; its number where it has none."""
    try:
        return find(number)[0]
    except KeyError:
        return str(number)


def number_of(find, name):
    """Number of a user or group, by what name_of said."""
    return int(name) if name.isdigit() else find(name)[2]


def rights(path):
    """Owner, group and mode; None where there is nothing."""
    if not path.exists():
        return None
    found = path.stat()
    return name_of(pwd.getpwuid, found.st_uid), name_of(grp.getgrgid, found.st_gid), stat.S_IMODE(found.st_mode)


def content(path):
    """Content and rights of a file; None where there is none."""
    found = rights(path)
    return _services.Found(path.read_text(encoding="utf-8", errors="replace"), *found) if found else None


def sysctl(key):
    """The file of a sysctl."""
    return Path("/proc/sys", *key.split("."))


def states(module, services):
    """Service -> whether it runs, and whether it starts with the node."""
    found = {}
    for service in services:
        argv = ["systemctl", "show", "--property=ActiveState,UnitFileState", _services.unit(service)]
        lines = module.run_command(argv)[1].split()
        found[service] = ("ActiveState=active" in lines, "UnitFileState=enabled" in lines)
    return found


def look(module, wanted, keys):
    """All that the plan is made from."""
    root, folder = Path(module.params["root"]), Path(_services.SETTINGS)
    link, releases = root / "current", root / "releases"
    return {
        "users": {user.pw_name for user in pwd.getpwall()},
        "folder": rights(folder),
        "files": {file.path: found for file in wanted if (found := content(Path(file.path)))},
        "link": str(link.readlink()) if link.is_symlink() else "",
        "sysctls": {key: sysctl(key).read_text(encoding="ascii").strip() for key in keys},
        "states": states(module, module.params["units"]),
        "releases": {str(p): p.stat().st_ctime for p in releases.iterdir() if p.is_dir()} if releases.is_dir() else {},
    }


# ---- changes


def add_user(module, name):
    """Adds a user without a home and without a shell, in a group of the same name."""
    groups = {group.gr_name for group in grp.getgrall()}
    group = ["--gid", name] if name in groups else ["--user-group"]
    argv = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    call(module, *argv, *group, name)


def write(module, path, wanted):
    """Has a file at once, never readable for others on the way."""
    path = Path(path)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".clustermesh-")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(wanted.content)
            owner, group = number_of(pwd.getpwnam, wanted.owner), number_of(grp.getgrnam, wanted.group)
            os.fchown(file.fileno(), owner, group)
            os.fchmod(file.fileno(), wanted.mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    module.set_default_selinux_context(str(path), False)


def set_link(root, release):
    """Lets the link point to a release, without a moment in which there is none."""
    part = root / ".current"
    part.unlink(missing_ok=True)
    part.symlink_to(release)
    part.replace(root / "current")


def prepare(module, todo):
    """Users, files and kernel settings."""
    for name in todo.users:
        add_user(module, name)
    if todo.folder:
        folder = Path(_services.SETTINGS)
        folder.mkdir(exist_ok=True)
        os.chown(folder, 0, 0)
        folder.chmod(0o755)
    for file in todo.files:
        write(module, file.path, _services.wanted_of(file))
    for key in todo.sysctls:
        sysctl(key).write_text("1\n", encoding="ascii")
    if todo.link:
        set_link(Path(module.params["root"]), todo.link)


def start(module, todo):
    """Starts what must run. A service tells systemd when it is ready, so this ending well is the health gate."""
    if todo.restart or todo.enable:
        call(module, "systemctl", "daemon-reload")
    if todo.enable:
        call(module, "systemctl", "enable", *map(_services.unit, todo.enable))
    if todo.restart:
        start_all(module, "restart", todo.restart)
    if todo.start:
        start_all(module, "start", todo.start)


def go_back(module, seen):
    """Runs the release before with its units and kubeconfigs; what became of it."""
    before, services = Path(seen["link"]).name, module.params["units"]
    kept = [service for service in services if f"{_services.UNITS}/{_services.unit(service)}" in seen["files"]]
    try:
        for path, found in seen["files"].items():
            write(module, path, found)
        if seen["link"]:
            set_link(Path(module.params["root"]), seen["link"])
        call(module, "systemctl", "daemon-reload")
        if kept:
            start_all(module, "restart", kept)
    except (NotReady, OSError, KeyError) as problem:
        return f"release {before} did not get ready either ({problem})" if before else "there was none before it"
    return f"release {before} runs again" if before else "there was none before it"


def run(module):
    """Has the node as it must be."""
    params = module.params
    keys = [key for key in _services.FORWARDING if sysctl(key).exists()]
    wanted = _services.files(params["units"], params["kubeconfigs"], keys)
    seen = look(module, wanted, keys)
    todo = _services.plan(wanted, params["release"], params["keep"], seen)
    diff = _services.diff(todo, seen)
    if diff and not module.check_mode:
        try:
            prepare(module, todo)
            start(module, todo)
        except (NotReady, OSError, KeyError) as problem:
            name, now = Path(params["release"]).name, go_back(module, seen)
            where = "see journalctl -u clustermesh-agent -u clustermesh-controller"
            module.fail_json(msg=f"release {name} did not get ready ({problem}); {now}; {where}")
        for path in todo.remove:
            shutil.rmtree(path)
    return {"changed": bool(diff), "diff": diff, "restarted": todo.restart, "removed": todo.remove}


def main():
    """Runs the module."""
    arguments = {
        "release": {"type": "path", "required": True},
        "root": {"type": "path", "default": "/opt/clustermesh"},
        "units": {"type": "dict", "required": True},
        "kubeconfigs": {"type": "dict", "required": True, "no_log": True},
        "keep": {"type": "int", "default": 3},
    }
    module = AnsibleModule(arguments, supports_check_mode=True)
    if not module.check_mode and not (Path(module.params["release"]) / "SHA256SUMS").exists():
        module.fail_json(
            msg=f"{module.params['release']} is no whole release: install it with module daemon_release first"
        )
    try:
        module.exit_json(**run(module))
    except OSError as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
