# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What services, settings and releases of a node must be. Pure functions."""

from __future__ import annotations

from collections import namedtuple

from ansible_collections.clustermesh.core.plugins.module_utils._objects import digest

SETTINGS = "/etc/clustermesh"
UNITS = "/etc/systemd/system"
SYSCTLS = "/etc/sysctl.d/60-clustermesh.conf"
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")

# ``service`` is the one that must be restarted when the file changes, "" for none
File = namedtuple("File", "path content group mode is_secret service")
Found = namedtuple("Found", "content owner group mode")
Plan = namedtuple("Plan", "users folder files link sysctls restart start enable remove")


def account(service):
    """User and group of a service."""
    return f"clustermesh-{service}"


def unit(service):
    """Name of its unit."""
    return f"clustermesh-{service}.service"


def files(units, kubeconfigs, keys):
    """Every file that must be there; ``keys`` are the sysctls that the kernel has."""
    wanted = []
    for service in units:
        path = f"{SETTINGS}/{service}.kubeconfig"
        wanted.append(File(path, kubeconfigs[service], account(service), 0o640, True, service))
        wanted.append(File(f"{UNITS}/{unit(service)}", units[service], "root", 0o644, False, service))
    wanted.append(File(SYSCTLS, "".join(f"{key}=1\n" for key in keys), "root", 0o644, False, ""))
    return wanted


def plan(wanted, release, keep, seen):
    """What must be done; ``seen`` is the node as it is."""
    services = [file.service for file in wanted if file.service and not file.is_secret]
    changed = [file for file in wanted if not is_there(file, seen["files"].get(file.path))]
    link = release if seen["link"] != release else ""
    restart = [service for service in services if link or service in {file.service for file in changed}]
    active, enabled = zip(*(seen["states"].get(service, (False, False)) for service in services))
    return Plan(
        users=[account(service) for service in services if account(service) not in seen["users"]],
        folder=seen["folder"] != ("root", "root", 0o755),
        files=changed,
        link=link,
        sysctls=sorted(key for key, value in seen["sysctls"].items() if value != "1"),
        restart=restart,
        start=[service for service, on in zip(services, active) if not on and service not in restart],
        enable=[service for service, on in zip(services, enabled) if not on],
        remove=too_old(seen["releases"], [release, seen["link"]], keep),
    )


def wanted_of(file):
    """A file as it must be."""
    return Found(file.content, "root", file.group, file.mode)


def is_there(file, found):
    """Whether a file is as it must be; ``found`` is None where there is none."""
    return found == wanted_of(file)


def too_old(releases, stay, keep):
    """Releases beyond the number to keep; ``releases`` is path -> time. Those in ``stay`` stay and count, whatever their age."""
    staying = {path for path in stay if path}
    others = sorted((path for path in releases if path not in staying), key=lambda path: (-releases[path], path))
    return others[max(keep - len(staying), 0) :]


def diff(todo, seen):
    """One entry for each thing that changes, secrets as digests."""
    entries = [_entry("user", "", name) for name in todo.users]
    if todo.folder:
        entries.append(_entry(SETTINGS, _rights(seen["folder"]), "root:root 0755"))
    for file in todo.files:
        texts = [_shown(file, found) for found in (seen["files"].get(file.path), wanted_of(file))]
        entries += [_entry(file.path, *texts)]
    if todo.link:
        entries.append(_entry("release", seen["link"], todo.link))
    entries += [_entry(key, seen["sysctls"][key], "1") for key in todo.sysctls]
    entries += [_entry(unit(service), "disabled", "enabled") for service in todo.enable]
    entries += [_entry(unit(service), "", "restarted") for service in todo.restart]
    entries += [_entry(unit(service), "", "started") for service in todo.start]
    return entries + [_entry("old release", path, "") for path in todo.remove]


def _rights(found):
    return "{}:{} {:04o}".format(*found) if found else ""


def _shown(file, found):
    if found is None:
        return ""
    return f"{_rights(found[1:])}\n{digest(found.content) if file.is_secret else found.content}"


def _entry(header, before, after):
    texts = {
        key: f"{text}\n" if text and not text.endswith("\n") else text
        for key, text in (("before", before), ("after", after))
    }
    return {"before_header": header, "after_header": header, **texts}
