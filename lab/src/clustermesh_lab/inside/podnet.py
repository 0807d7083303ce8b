"""The pod network of clusters whose CNI plug-in has no routing of its own: a small kindnet.

Waits until the controller manager has given the node its pod CIDRs, installs the CNI configuration and the masquerade
rule, and keeps routes to the pod CIDRs of the other nodes while it watches them. In a control plane's namespace it
only keeps the routes, so that the API server reaches webhooks that run in pods.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cni import PLUGINS
from ..errors import LabError
from ..kubeapi import JSON, UNREACHABLE, Api

PROTOCOL = "86"  # marks our routes; the number is nobody else's
CONFLIST = Path("/etc/cni/net.d/10-lab.conflist")
RETRY_S = 0.3
NO_MULTICAST = {"ip": "224.0.0.0/4", "ip6": "ff00::/8"}


@dataclass(frozen=True, slots=True)
class Node:
    """What the network needs to know of a node."""

    name: str
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...]

    @classmethod
    def of(cls, obj: JSON) -> Node:
        """From the API object."""
        addresses = obj.get("status", {}).get("addresses", ())
        internal = tuple(a["address"] for a in addresses if a["type"] == "InternalIP")
        return cls(obj["metadata"]["name"], internal, tuple(obj["spec"].get("podCIDRs", ())))


def family(text: str) -> str:
    """The family of an address or network, as nft names it."""
    return "ip6" if ":" in text else "ip"


def wanted_routes(nodes: dict[str, Node], own: str) -> dict[str, str]:
    """Pod CIDR -> address of its node, for all nodes but our own."""
    routes = {}
    for node in nodes.values():
        if node.name == own:
            continue
        for cidr in node.pod_cidrs:
            via = next((a for a in node.addresses if family(a) == family(cidr)), None)
            if via:
                routes[cidr] = via
    return routes


def masquerade_rules(pods: list[str]) -> str:
    """nft script: what leaves the cluster carries the node's address, as with any CNI that is set to masquerade."""
    rules = []
    for cidr in pods:
        f = family(cidr)
        rules.append(f"{f} saddr {cidr} {f} daddr != {{ {cidr}, {NO_MULTICAST[f]} }} masquerade")
    chain = "type nat hook postrouting priority srcnat; policy accept; " + "; ".join(rules)
    table = "table inet lab_podnet"
    return f"{table}\ndelete {table}\n{table} {{ chain out {{ {chain}; }}; }}\n"


def _run(*argv: str, stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=30)
    if done.returncode:
        print(f"{' '.join(argv)}: {done.stderr.strip()}", flush=True)
    return done.stdout


def set_routes(wanted: dict[str, str]) -> None:
    """Make our routes the wanted ones."""
    for option in ("-4", "-6"):
        present = json.loads(_run("ip", "-j", option, "route", "show", "proto", PROTOCOL) or "[]")
        found = {str(ipaddress.ip_network(r["dst"])): r.get("gateway", "") for r in present}
        ours = {c: v for c, v in wanted.items() if (family(c) == "ip6") == (option == "-6")}
        for cidr in found.keys() - ours.keys():
            _run("ip", option, "route", "del", cidr, "proto", PROTOCOL)
        for cidr, via in ours.items():
            if found.get(cidr) != via:
                _run("ip", option, "route", "replace", cidr, "via", via, "proto", PROTOCOL)


def install_cni(plugin: str, node: Node, mtu: int) -> None:
    """The CNI configuration, once; written whole because containerd watches the directory."""
    config = PLUGINS[plugin].conflist(node.pod_cidrs, mtu)
    text = json.dumps(config, indent=1)
    if config is None or (CONFLIST.exists() and CONFLIST.read_text() == text):
        return
    beside = CONFLIST.with_suffix(".new")
    beside.write_text(text)
    beside.replace(CONFLIST)
    print(f"pods of this node are in {', '.join(node.pod_cidrs)}", flush=True)


def act(spec: dict[str, Any], nodes: dict[str, Node]) -> None:
    """Bring this namespace in line with what the nodes say."""
    set_routes(wanted_routes(nodes, spec["node"]))
    own = nodes.get(spec["node"])
    if own and len(own.pod_cidrs) == len(spec["pods"]):
        install_cni(spec["cni"], own, spec["mtu"])


def follow(spec: dict[str, Any], api: Api) -> None:
    """List, then watch, until the server ends the watch."""
    listed = api.get("/api/v1/nodes")
    nodes = {n.name: n for n in map(Node.of, listed["items"])}
    act(spec, nodes)
    for event in api.watch("/api/v1/nodes", listed["metadata"]["resourceVersion"]):
        if event["type"] == "BOOKMARK":
            continue
        if event["type"] == "ERROR":
            return
        node = Node.of(event["object"])
        if event["type"] == "DELETED":
            nodes.pop(node.name, None)
        elif nodes.get(node.name) == node:
            continue
        else:
            nodes[node.name] = node
        act(spec, nodes)


def main() -> None:
    """Follow the nodes for as long as the place lives."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    api = Api(spec["url"], Path(spec["ca"]), Path(spec["certificate"]), Path(spec["key"]))
    if spec["node"]:
        subprocess.run(["nft", "-f", "-"], input=masquerade_rules(spec["pods"]), text=True, check=True)
    while True:
        try:
            follow(spec, api)
        except (*UNREACHABLE, LabError, ValueError) as error:
            print(f"asking again: {error}", flush=True)
        time.sleep(RETRY_S)


if __name__ == "__main__":
    main()
