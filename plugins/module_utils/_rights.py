# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What whoever runs the playbooks must be allowed in a cluster. Pure functions.

The lists are exactly what the modules ask of an API server to look at a cluster, mesh it, see that it is well, renew
its credentials and take the mesh away: tests/integration_modules/test_needed_rights.py runs them by an account that may do
this and nothing else. Who makes a role must be allowed to escalate and to bind it, or hold itself what it grants.
"""

from __future__ import annotations

from collections import namedtuple

from ansible_collections.clustermesh.core.plugins.module_utils import _access, _peering, _pools
from ansible_collections.clustermesh.core.plugins.module_utils._access import RBAC
from ansible_collections.clustermesh.core.plugins.module_utils._objects import NAMESPACE

# a resource may have a subresource (a/b); namespace "" is every namespace, name "" every object
Right = namedtuple("Right", "verb group resource namespace name", defaults=("", ""))

KEEP = ("get", "create", "patch")  # a server-side apply is a patch, and creates what is not there
OWN = (*KEEP, "delete")
LIST = ("list", "create", "patch", "delete")  # all of them are read at once

MESH = (
    (KEEP, "", "namespaces", ""),
    (OWN, "", "serviceaccounts", NAMESPACE),
    ((*OWN, "list"), "", "secrets", NAMESPACE),
    (OWN, RBAC, "clusterroles", ""),
    (OWN, RBAC, "clusterrolebindings", ""),
    (OWN, RBAC, "roles", NAMESPACE),
    (OWN, RBAC, "rolebindings", NAMESPACE),
    (OWN, "apiextensions.k8s.io", "customresourcedefinitions", ""),
    (LIST, "clustermesh.io", "remoteclusterconfigurations", ""),
    # of mesh_info, which says whether the mesh is well
    (("list",), "clustermesh.io", "remotenodes", ""),
    (("list",), "clustermesh.io", "meshnodes", ""),
    (("get",), "coordination.k8s.io", "leases", NAMESPACE),
    (("create",), "authorization.k8s.io", "subjectaccessreviews", ""),
    (("list",), "", "pods", ""),  # to which others send packets
    # of preflight_info
    (("list",), "", "nodes", ""),
    (("get",), "", "services", "default"),
    (("list",), "networking.k8s.io", "servicecidrs", ""),
    (("list",), "apps", "daemonsets", ""),
)
REQUESTED_TOKEN = ((("create",), "", "serviceaccounts/token", NAMESPACE),)
# mode systemd looks whether there are workloads to be taken away
WORKLOADS = (("apps", "daemonsets"), ("apps", "deployments"), ("policy", "poddisruptionbudgets"))


def needed(daemon_mode="systemd", token_type="secret", calico=None, has_pools=False):  # noqa: S107
    """All rights that a cluster asks for: ``calico`` is the version of Calico's objects that it serves, ``has_pools``
    whether the underlay routes to a peer of it, so that these are written."""
    found = list(MESH)
    found += REQUESTED_TOKEN if token_type == "request" else ()  # noqa: S105
    verbs = OWN if daemon_mode == "kubernetes" else ("get",)
    found += [(verbs, group, resource, NAMESPACE) for group, resource in WORKLOADS]
    found += _calico(calico, has_pools)
    return [Right(verb, *what) for verbs, *what in found for verb in verbs]


def _calico(served, has_pools):
    """The versions are asked for in order; an account without rights is not told that one is not served."""
    for version in _pools.VERSIONS:
        group, is_served = version.partition("/")[0], version == served
        yield LIST if is_served and has_pools else ("list",), group, "ippools", ""
        if is_served:
            yield ("get",), group, "felixconfigurations", ""
            return


def roles():
    """The roles that the modules make."""
    made = [*_access.remote_objects(), *_access.daemon_objects(), *_peering.reader([])]
    return [item for item in made if item["kind"] in ("ClusterRole", "Role")]


def granted(role):
    """What a role grants."""
    place = role["metadata"].get("namespace", "")
    return [
        Right(verb, group, resource, place, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
    ]


def making(role):
    """The rights to make a role and its binding that stand in for holding what it grants."""
    meta = role["metadata"]
    what = f"{role['kind'].lower()}s", meta.get("namespace", ""), meta["name"]
    return [Right(verb, RBAC, *what) for verb in ("escalate", "bind")]


def missing(may, wanted):
    """What is not allowed, as lines; ``may`` answers for one right."""
    lines = [shown([right for right in same if not may(right)]) for same in _by_what(wanted)]
    for role in roles():
        lacking = [right for right in making(role) if not may(right)]
        not_held = next((right for right in granted(role) if not may(right)), None) if lacking else None
        if not_held:
            lines.append(f"{shown(lacking)} (or itself {shown([not_held])} and all else that it grants)")
    return [line for line in lines if line]


def _by_what(rights):
    found = {}
    for right in rights:
        found.setdefault(right[1:], []).append(right)
    return found.values()


def shown(rights):
    """Rights to one thing, for people."""
    if not rights:
        return ""
    right = rights[0]
    group = f".{right.group}" if right.group else ""
    name = f" {right.name}" if right.name else ""
    place = f" in {right.namespace}" if right.namespace else ""
    return f"{'/'.join(right.verb for right in rights)} {right.resource}{group}{name}{place}"
