"""Which Services of a peer count, and which of their labels: ``spec.import`` of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clustermeshd import selector
from clustermeshd.kube.objects import ImportRules
from clustermeshd.model.errors import Refused
from clustermeshd.selector import Selector


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """Import rules as far as they concern Services. ``problem`` is why nothing is admitted, None where rules are good.

    A name rule and a selector must both admit a namespace.
    """

    namespaces: frozenset[str] | None = None
    selector: Selector | None = None
    keys: frozenset[str] | None = None
    beginnings: tuple[str, ...] = ()
    problem: Refused | None = None

    def admits(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Whether Services of a namespace count; ``labels`` are those that the peer gives it, None where unknown."""
        if not self.may_admit(namespace):
            return False
        return self.selector is None or (labels is not None and self.selector.matches(labels))

    def may_admit(self, namespace: str) -> bool:
        """Whether Services of a namespace could count whose labels nobody knows now."""
        return self.problem is None and (self.namespaces is None or namespace in self.namespaces)

    def visible(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """The labels that count in selectors."""
        if self.keys is None:
            return labels
        return {k: v for k, v in labels.items() if k in self.keys or k.startswith(self.beginnings)}


def service_rules(rules: ImportRules) -> ServiceRules:
    """Rules as they are applied."""
    parsed, problem = None, None
    if rules.namespace_selector:
        try:
            parsed = selector.parse(rules.namespace_selector)
        except Refused as error:
            problem = Refused(
                "InvalidNamespaceSelector",
                f"spec.import.namespaceSelector: {error.found}",
                where="RemoteClusterConfiguration",
                fix="correct it; until then no Service of this peer counts",
            )
    keys = rules.label_keys
    return ServiceRules(
        namespaces=None if rules.namespaces is None else frozenset(rules.namespaces),
        selector=parsed,
        keys=None if keys is None else frozenset(key for key in keys if not key.endswith("*")),
        beginnings=tuple(key[:-1] for key in keys or () if key.endswith("*")),
        problem=problem,
    )
