"""What a lab is made of: a small YAML file, checked before anything starts.

Every field has a default that gives a sensible cluster, so the shortest topology is two cluster names. Addresses
follow from the position of a cluster in the file (1, 2, ...) unless they are set:

    nodes      10.(128+lab).C.0/24   fd00:(80+lab):C::/64     (lab: the lab's instance, hexadecimal in IPv6)
    pods       10.C.0.0/16           fd00:1:C::/48
    services   10.(100+C).0.0/16     fd00:2:C::/112
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from .cni import PLUGINS
from .errors import InvalidTopology

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Family = Literal["ipv4", "ipv6"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
PROXY_MODES = ("nftables", "iptables", "none")
FLAG_COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
PRESETS = Path(__file__).parent / "presets"
MAX_CLUSTERS = 27  # Services of the 28th would lie in the node subnets
MAX_NODES = 200
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")
_CLUSTER_FIELDS = ("nodes", "families", "node_subnets", "pods", "services", "cni", "calico", "proxy", "dns", "flags")
# Options of a cluster with Calico; the first choice of each is the default.
CALICO_OPTIONS = {"encapsulation": ("VXLAN", "None"), "ipam": ("podcidr", "calico")}


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster of a topology, every default filled in but the node subnets, which depend on the lab's instance."""

    name: str
    index: int
    nodes: tuple[str, ...]
    families: tuple[Family, ...]
    pods: tuple[str, ...]
    services: tuple[str, ...]
    node_subnets: tuple[str, ...] = ()
    cni: str = "ptp"
    calico: Mapping[str, str] = field(default_factory=dict)
    proxy: str = "nftables"
    dns: bool = True
    flags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def subnets(self, lab_index: int) -> tuple[Network, ...]:
        """The cluster's node subnets in the lab of that instance, in the order of its families."""
        if self.node_subnets:
            return tuple(ipaddress.ip_network(s) for s in self.node_subnets)
        second = 128 + lab_index
        made = {"ipv4": f"10.{second}.{self.index}.0/24", "ipv6": f"fd00:{second:x}:{self.index:x}::/64"}
        return tuple(ipaddress.ip_network(made[f]) for f in self.families)

    def service_address(self, number: int) -> tuple[str, ...]:
        """The address of that number in each service network (1: the API server, 10: DNS)."""
        return tuple(str(ipaddress.ip_network(s)[number]) for s in self.services)


@dataclass(frozen=True, slots=True)
class Topology:
    """The clusters of a lab."""

    clusters: tuple[Cluster, ...]

    @classmethod
    def preset(cls, name: str) -> Topology:
        """A topology that comes with the lab: demo, tiny, three, v6, dual, calico."""
        file = PRESETS / f"{name}.yaml"
        if not file.is_file():
            raise InvalidTopology(f"no preset {name!r}; there are {', '.join(preset_names())}, or give a file")
        return cls.load(file)

    @classmethod
    def load(cls, file: Path) -> Topology:
        """The topology in a YAML file."""
        try:
            return cls.parse(yaml.safe_load(file.read_text()), str(file))
        except OSError as error:
            raise InvalidTopology(f"{file}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise InvalidTopology(f"{file}: not YAML: {' '.join(str(error).split())}") from error

    @classmethod
    def find(cls, name_or_file: str) -> Topology:
        """What a person names: a preset, or a file."""
        path = Path(name_or_file)
        if path.suffix in (".yaml", ".yml") or "/" in name_or_file:
            return cls.load(path)
        return cls.preset(name_or_file)

    @classmethod
    def parse(cls, data: Any, source: str = "topology") -> Topology:
        """Check and complete what was read from YAML."""
        top = _mapping(data, source, ("families", "clusters"))
        listed = top.get("clusters")
        if not isinstance(listed, dict) or not listed:
            raise InvalidTopology(f"{source}: clusters: a mapping of cluster names is needed")
        if len(listed) > MAX_CLUSTERS:
            raise InvalidTopology(f"{source}: clusters: {len(listed)} is more than {MAX_CLUSTERS}")
        default = _families(top.get("families", ["ipv4"]), f"{source}: families")
        clusters = tuple(
            _cluster(str(name), index, body, default, f"{source}: clusters.{name}")
            for index, (name, body) in enumerate(listed.items(), 1)
        )
        _refuse_overlaps(clusters, source)
        return cls(clusters)

    def to_json(self) -> str:
        """What `from_json` takes back."""
        return json.dumps({"clusters": [asdict(c) for c in self.clusters]}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Topology:
        """A topology that was recorded."""

        def whole(entry: dict[str, Any]) -> Cluster:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
            return Cluster(**fields)

        return cls(tuple(whole(entry) for entry in json.loads(text)["clusters"]))


def preset_names() -> list[str]:
    """Topologies that come with the lab."""
    return sorted(f.stem for f in PRESETS.glob("*.yaml"))


def _mapping(value: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidTopology(f"{where}: a mapping is needed, found {value!r}")
    for key in value:
        if key not in known:
            raise InvalidTopology(f"{where}: unknown field {key!r}; there are {', '.join(known)}")
    return value


def _families(value: Any, where: str) -> tuple[Family, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or len(set(given)) != len(given):
        raise InvalidTopology(f"{where}: a list of {' and/or '.join(FAMILIES)} is needed, found {value!r}")
    for family in given:
        if family not in FAMILIES:
            raise InvalidTopology(f"{where}: {family!r} is neither ipv4 nor ipv6")
    return tuple(given)


def _cluster(name: str, index: int, value: Any, default: tuple[Family, ...], where: str) -> Cluster:
    body = _mapping({} if value is None else value, where, _CLUSTER_FIELDS)
    _check_name(name, where)
    families = _families(body["families"], f"{where}.families") if "families" in body else default
    pods = {"ipv4": f"10.{index}.0.0/16", "ipv6": f"fd00:1:{index:x}::/48"}
    services = {"ipv4": f"10.{100 + index}.0.0/16", "ipv6": f"fd00:2:{index:x}::/112"}
    dns = body.get("dns", True)
    if not isinstance(dns, bool):
        raise InvalidTopology(f"{where}.dns: true or false is needed, found {dns!r}")
    return Cluster(
        name=name,
        index=index,
        nodes=_nodes(body.get("nodes", 2), f"{where}.nodes"),
        families=families,
        pods=_networks(body.get("pods"), families, [pods[f] for f in families], f"{where}.pods"),
        services=_networks(body.get("services"), families, [services[f] for f in families], f"{where}.services"),
        node_subnets=_networks(body.get("node_subnets"), families, [], f"{where}.node_subnets"),
        cni=(cni := _choice(body.get("cni", "ptp"), sorted(PLUGINS), f"{where}.cni")),
        calico=_calico(body.get("calico"), cni, families, where),
        proxy=_choice(body.get("proxy", "nftables"), PROXY_MODES, f"{where}.proxy"),
        dns=dns,
        flags=_flags(body.get("flags", {}), f"{where}.flags"),
    )


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidTopology(
            f"{where}: {name!r} is no usable name: up to 20 lower-case letters, digits and '-', a letter first"
        )


def _nodes(value: Any, where: str) -> tuple[str, ...]:
    names = [f"n{i}" for i in range(1, value + 1)] if type(value) is int else value
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(names) > MAX_NODES:
        raise InvalidTopology(f"{where}: a number up to {MAX_NODES} or a list of names is needed, found {value!r}")
    for name in names:
        _check_name(name, where)
    if len(set(names)) != len(names):
        raise InvalidTopology(f"{where}: a node is named twice in {names!r}")
    return tuple(names)


def _choice(value: Any, choices: Iterable[str], where: str) -> str:
    if value not in choices:
        raise InvalidTopology(f"{where}: {value!r} is none of {', '.join(choices)}")
    return str(value)


def _calico(value: Any, cni: str, families: tuple[Family, ...], where: str) -> dict[str, str]:
    if cni != "calico":
        if value is not None:
            raise InvalidTopology(f"{where}.calico: options of Calico, but cni is {cni}")
        return {}
    if families != ("ipv4",):
        raise InvalidTopology(f"{where}.families: the lab's Calico has ipv4 only, found {', '.join(families)}")
    given = _mapping({} if value is None else value, f"{where}.calico", CALICO_OPTIONS)
    return {
        name: _choice(given.get(name, choices[0]), choices, f"{where}.calico.{name}")
        for name, choices in CALICO_OPTIONS.items()
    }


def _networks(value: Any, families: tuple[Family, ...], default: list[str], where: str) -> tuple[str, ...]:
    """One network a family, in their order."""
    if value is None:
        return tuple(default)
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or len(given) != len(families):
        raise InvalidTopology(f"{where}: one network for each of {', '.join(families)} is needed, found {value!r}")
    for text, family in zip(given, families, strict=True):
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidTopology(f"{where}: {error}") from error
        if f"ipv{network.version}" != family:
            raise InvalidTopology(f"{where}: {text} stands where a network of {family} belongs (order of families)")
    return tuple(str(ipaddress.ip_network(g)) for g in given)


def _flags(value: Any, where: str) -> dict[str, dict[str, str]]:
    found = _mapping(value, where, FLAG_COMPONENTS)
    result = {}
    for component, flags in found.items():
        if not isinstance(flags, dict):
            raise InvalidTopology(f"{where}.{component}: a mapping of flag names is needed, found {flags!r}")
        result[component] = {str(k).lstrip("-"): _flag_text(v) for k, v in flags.items()}
    return result


def _flag_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_overlaps(clusters: tuple[Cluster, ...], source: str) -> None:
    """Pod, service and node networks of all clusters are distinct: a mesh routes all of them."""
    seen: list[tuple[Network, str]] = []
    for cluster in clusters:
        for kind in ("pods", "services", "node_subnets"):
            for text in getattr(cluster, kind):
                network = ipaddress.ip_network(text)
                where = f"clusters.{cluster.name}.{kind}"
                for other, other_where in seen:
                    if network.version == other.version and network.overlaps(other):
                        raise InvalidTopology(f"{source}: {where} {network} overlaps {other_where} {other}")
                seen.append((network, where))
