"""RemoteClusterConfigurations of both groups as one set.

Calico Enterprise's kind is honoured where it is served, as far as it connects by a Secret. Every other connection
field is refused by name: it would name files, or a datastore, that nothing here can reach.
(tigera/docs: calico-enterprise/reference/resources/remoteclusterconfiguration.mdx)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from clustermeshd.kube import objects, resources
from clustermeshd.model.errors import Refused

_UNDERSTOOD: Final = ("clusterAccessSecret", "syncOptions")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def from_calico(stored: objects.CalicoRemoteClusterConfiguration) -> objects.RemoteClusterConfiguration:
    """The same in our terms; msgspec.ValidationError where a field has the wrong type, as when it is decoded."""
    spec = stored.spec or {}
    understood = {key: spec[key] for key in _UNDERSTOOD if spec.get(key) is not None}
    return objects.RemoteClusterConfiguration(
        metadata=stored.metadata,
        api_version=resources.CALICO_REMOTE_CLUSTER_CONFIGURATIONS.api_version,
        spec=msgspec.convert(understood, objects.RemoteClusterConfigurationSpec),
        refused_fields=tuple(sorted(key for key, value in spec.items() if _is_refused(key, value))),
    )


def _is_refused(key: str, value: Any) -> bool:
    return key not in _UNDERSTOOD and bool(value) and (key, value) != ("datastoreType", "kubernetes")


def merged(
    ours: Mapping[str, objects.RemoteClusterConfiguration], calico: Mapping[str, objects.RemoteClusterConfiguration]
) -> dict[str, objects.RemoteClusterConfiguration]:
    """By name; of two of one name ours counts. One that is being deleted does not, whatever finalizer holds it."""
    return {name: c for each in (calico, ours) for name, c in each.items() if c.metadata.deletion_timestamp is None}


def check(configuration: objects.RemoteClusterConfiguration) -> None:
    """Refused where the name or a field of a configuration rules it out; our own CRD refuses such at the door."""
    name, fields = configuration.metadata.name, configuration.refused_fields
    where = f"RemoteClusterConfiguration {name}"
    if not _NAME.fullmatch(name):
        found = "the name is a label value and the beginning of other names"
        raise Refused("NameRefused", found, where=where, fix="use at most 63 lower-case letters, digits and dashes")
    if fields:
        found = f"{', '.join(f'spec.{field[:64]}' for field in fields[:20])} cannot be used"
        raise Refused("ConnectionFieldRefused", found, where=where, fix="set spec.clusterAccessSecret alone")
    reference = configuration.spec.cluster_access_secret
    if reference is None or not reference.name or not reference.namespace:
        raise Refused(
            "SecretNotNamed",
            "spec.clusterAccessSecret is empty",
            where=where,
            fix="name the Secret that holds the remote kubeconfig",
        )
