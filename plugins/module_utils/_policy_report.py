# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Results of module policy for people, and where policy sets come from. Pure functions."""

from __future__ import annotations

import json

ACCESS = {
    "kubeconfig": "mesh_kubeconfig",
    "context": "mesh_context",
    "host": "mesh_api_server",
    "api_key": "mesh_api_token",
    "ca_cert": "mesh_ca_file",
    "request_timeout": "mesh_request_timeout",
}


class UnknownSource(ValueError):
    """A policy set comes from a cluster that the inventory does not have."""


def sources(sets, hosts):
    """Options of access by name of cluster, of every cluster that a policy set comes from."""
    found = {}
    for one in sets:
        name = one.get("source")
        if not name:
            continue
        if name not in hosts:
            raise UnknownSource(f"policy set {one.get('name')}: source is {name}, which is no host of the inventory")
        found[name] = {option: hosts[name][key] for option, key in ACCESS.items() if hosts[name].get(key)}
    return found


def lines(answer):
    """One line for each policy that is not as wanted, and for each of its fields that others changed."""
    for row in answer.get("objects") or ():
        what = f"{row['kind']} {row['namespace'] + '/' if row['namespace'] else ''}{row['name']}"
        if row["reason"]:
            yield f"{what}: {row['action']}: {row['reason']}"
        elif row["action"] != "keep":
            yield f"{what}: {row['action']}"
        for field in row["drift"]:
            yield f"{what}: {field['path']} is {_brief(field['have'])}, not {_brief(field['want'])}; {_who(field)}"


def _brief(value):
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _who(field):
    if not field["manager"]:
        return "who changed it is not recorded"
    return f"by {field['manager']}{' at ' + field['time'] if field['time'] else ''}"
