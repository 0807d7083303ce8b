# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What changes about policies on their way into another cluster. Pure functions."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace

from ansible_collections.clustermesh.core.plugins.module_utils._policies import BadPolicy

NAMESPACE_LABELS = ("kubernetes.io/metadata.name", "projectcalico.org/name")
CIDR_FIELDS = ("cidr", "except", "nets", "notNets", "networks")
TEXT_SELECTORS = ("selector", "notSelector", "namespaceSelector")


class Rewrite:
    """Rules of option ``rewrite``; raises BadPolicy for rules that cannot be."""

    def __init__(self, rules):
        rules = rules or {}
        self._rules = rules
        self._namespaces = rules.get("namespaces") or {}
        self._names = [(_pattern(rule["match"]), rule["replace"]) for rule in rules.get("names") or ()]
        pairs = [_cidr_pair(old, new) for old, new in (rules.get("cidrs") or {}).items()]
        self._cidrs = sorted(pairs, key=lambda pair: -pair[0].prefixlen)

    def policies(self, policies):
        """(policies as the other cluster is to have them, warnings)."""
        tiers = {policy.name for policy in policies if policy.kind.name == "Tier"}
        made = [self._one(policy, tiers) for policy in policies]
        warnings = [text for policy in policies for text in self._overlooked(policy)]
        return made, warnings

    def _one(self, policy, tiers):
        spec = self._spec(policy.spec)
        name = self._name(policy.name)
        tier = policy.tier
        if tier and tier != "default":
            renamed = self._name(tier) if tier in tiers else tier
            spec["tier"] = renamed
            inner = policy.name.removeprefix(f"{tier}.")
            name = f"{renamed}.{self._name(inner)}" if inner != policy.name else name
        return replace(
            policy,
            namespace=self._namespaces.get(policy.namespace, policy.namespace),
            name=name,
            labels=self._texts("labels", policy.labels),
            annotations=self._texts("annotations", policy.annotations),
            spec=spec,
        )

    def _name(self, name):
        for pattern, replacement in self._names:
            try:
                name = pattern.sub(replacement, name)
            except (re.error, IndexError) as problem:
                raise BadPolicy(f"rewrite.names: replace {replacement!r}: {problem}") from problem
        return name

    def _texts(self, what, texts):
        gone = self._rules.get(f"remove_{what}") or ()
        return {**{k: v for k, v in texts.items() if k not in gone}, **(self._rules.get(f"set_{what}") or {})}

    def _spec(self, value, key=""):
        if isinstance(value, dict):
            if value.get("key") in NAMESPACE_LABELS and isinstance(value.get("values"), list):
                return {**value, "values": [self._namespaces.get(name, name) for name in value["values"]]}
            return {k: self._spec(inner, k) for k, inner in value.items()}
        if isinstance(value, list):
            return [self._spec(inner, key) for inner in value]
        if isinstance(value, str) and key in NAMESPACE_LABELS:
            return self._namespaces.get(value, value)
        if isinstance(value, str) and key in CIDR_FIELDS:
            return self._cidr(value)
        return value

    def _cidr(self, text):
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            return text  # the API server has its own words for it
        for old, new in self._cidrs:
            if network.version == old.version and network.subnet_of(old):
                host = ipaddress.ip_interface(text).ip
                moved = type(host)(int(new.network_address) + int(host) - int(old.network_address))
                return f"{moved}/{network.prefixlen}" if "/" in text else str(moved)
        return text

    def _overlooked(self, policy):
        """Selectors in Calico's language that name a renamed namespace; they are left as they are."""
        for key, text in _texts_of(policy.spec):
            for name in self._namespaces:
                if key in TEXT_SELECTORS and re.search(rf"""['"]{re.escape(name)}['"]""", text):
                    yield f"{policy}: {key} names {name!r}, which rewrite.namespaces does not change in selectors"


def _texts_of(value, key=""):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts_of(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_of(inner, key)
    elif isinstance(value, str):
        yield key, value


def _pattern(text):
    try:
        return re.compile(text)
    except re.error as problem:
        raise BadPolicy(f"rewrite.names: match {text!r} is no regular expression: {problem}") from problem


def _cidr_pair(old, new):
    try:
        pair = ipaddress.ip_network(old), ipaddress.ip_network(new)
    except ValueError as problem:
        raise BadPolicy(f"rewrite.cidrs: {old}: {new}: {problem}") from problem
    if (pair[0].version, pair[0].prefixlen) != (pair[1].version, pair[1].prefixlen):
        raise BadPolicy(
            f"rewrite.cidrs: {old} and {new} differ in family or length; addresses could not be carried over"
        )
    return pair
