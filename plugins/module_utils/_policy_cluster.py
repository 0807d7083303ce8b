# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Policies of a cluster: which kinds it serves, what is stored, and the write of one."""

from __future__ import annotations

from urllib.parse import quote

from ansible_collections.clustermesh.core.plugins.module_utils._client import ClusterError, group_path
from ansible_collections.clustermesh.core.plugins.module_utils._objects import MANAGER
from ansible_collections.clustermesh.core.plugins.module_utils._policies import KINDS, canonical, is_native
from ansible_collections.clustermesh.core.plugins.module_utils._policy_drift import made
from ansible_collections.clustermesh.core.plugins.module_utils._policy_plan import Target, manifest


class Policies:
    """The policies of one cluster through its client."""

    def __init__(self, client):
        self._client = client
        self._served = {}

    def version(self, kind):
        """The API version by which a kind is served, None when it is not."""
        for candidate in self._candidates(kind):
            if candidate not in self._served:
                found = (self._client.get(group_path(candidate)) or {}).get("resources") or ()
                self._served[candidate] = {resource["kind"] for resource in found}
            if kind.kind in self._served[candidate]:
                return candidate
        return None

    def _candidates(self, kind):
        for candidate in kind.versions:
            group, dummy, version = candidate.rpartition("/")
            if version != "*":
                yield candidate
                continue
            found = self._client.get(f"/apis/{group}") or {}
            preferred = (found.get("preferredVersion") or {}).get("groupVersion")
            others = [item["groupVersion"] for item in found.get("versions") or ()]
            yield from dict.fromkeys([*([preferred] if preferred else []), *others])

    def versions(self, names):
        """API version by name of kind, of those that are served."""
        found = {name: self.version(KINDS[name]) for name in names}
        return {name: version for name, version in found.items() if version}

    def _path(self, kind, version, namespace="", name=""):
        place = f"/namespaces/{quote(namespace)}" if namespace else ""
        return f"{group_path(version)}{place}/{kind.plural}" + (f"/{quote(name)}" if name else "")

    def items(self, versions, namespaces=None):
        """(kind, object) of all kinds, of some namespaces only if given."""
        for name, version in versions.items():
            kind = KINDS[name]
            places = namespaces if namespaces and kind.namespaced else [""]
            for namespace in places:
                for item in self._client.items(self._path(kind, version, namespace)):
                    yield kind, {"apiVersion": version, "kind": kind.kind, **item}

    def native(self, names, namespaces=None):
        """(names of served kinds, policies that somebody decided on)."""
        versions = self.versions(names)
        found = [canonical(kind, item) for kind, item in self.items(versions, namespaces) if is_native(kind, item)]
        return list(versions), found

    def target(self, names):
        """What is there for a plan."""
        # a tier may be there and its kind not asked for
        versions = self.versions(names)
        tiers = self.versions(["Tier"]) if "Tier" not in versions else {}
        stored = {canonical(kind, item).key: item for kind, item in self.items({**versions, **tiers})}
        namespaces = {item["metadata"]["name"] for item in self._client.items("/api/v1/namespaces")}
        return Target(versions, stored, namespaces)

    def write(self, step, versions, set_name):
        """Creates or replaces a policy; a dry run first tells what the server makes of it."""
        kind, version, stored = step.policy.kind, versions[step.policy.kind.name], step.stored
        item = manifest(step.policy, version, set_name, stored)
        name = item["metadata"]["name"] if stored else ""
        verb, path = ("PUT" if stored else "POST"), self._path(kind, version, step.policy.namespace, name)
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        answer = self._client.request(verb, path, item, {**query, "dryRun": "All"})
        item = manifest(step.policy, version, set_name, stored, made(kind, answer))
        self._client.request(verb, path, item, query)

    def carry_out(self, step, versions, set_name):
        """Writes one step; why it could not be written, or None. An API server that does not answer raises."""
        try:
            if step.action in ("create", "update"):
                self.write(step, versions, set_name)
            elif step.action == "delete":
                self._client.delete(step.stored)
        except ClusterError as problem:
            if getattr(problem, "status", None) is None:
                raise
            return str(problem)
        return None
