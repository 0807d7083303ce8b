"""What can be set on an agent, and the flags that set it."""

from __future__ import annotations

import argparse
import os
import socket
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from clustermeshd.model.settings import Dataplane, Ports, Probing

_HELP = {
    "device": "name of the VXLAN device of inner IPv4; that of IPv6 ends in v6",
    "vni": "VXLAN network identifier of inner IPv4, alike in the whole mesh; that of IPv6 is one more",
    "port": "UDP port of the tunnel, alike in the whole mesh",
    "table": "routing table",
    "rule_priority": "priority of the ip rule that leads there",
    "route_protocol": "protocol number that marks routes, nexthops, neighbours, rules and addresses as ours",
    "nft_table": "name of the nftables table (family inet)",
    "probe_port": "UDP port of probes on the tunnel address, alike in the whole mesh",
    "use_nexthops": "route by nexthop objects where the kernel has them",
    "underlay_interface": "interfaces whose address is the underlay's (patterns, by comma) in place of InternalIP's",
    "underlay_cidr": "prefixes of which the underlay's address is one (by comma) in place of InternalIP",
}
_PROBE_HELP = {
    "interval_s": "seconds from one round to the next",
    "timeout_s": "seconds until a probe counts as lost",
    "sample": "remote nodes probed in a round, all where there are no more; 0: neither probe nor answer",
}


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Settings of one agent process."""

    node_name: str
    kubeconfig: Path | None = None
    context: str | None = None
    dataplane: Dataplane = field(default_factory=Dataplane)
    probing: Probing = field(default_factory=Probing)
    health_host: str = "127.0.0.1"
    health_port: int = Ports().agent
    log_format: str = "text"
    log_level: str = "info"
    once: bool = False
    dry_run: bool = False
    output: str = "table"
    uninstall: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> AgentOptions:
        dataplane = Dataplane(**{entry.name: getattr(arguments, entry.name) for entry in fields(Dataplane)})
        if not arguments.probe_sample:  # then nobody answers, and nothing is let in
            dataplane = replace(dataplane, probe_port=0)
        return cls(
            node_name=arguments.node_name,
            kubeconfig=arguments.kubeconfig,
            context=arguments.context,
            dataplane=dataplane,
            probing=Probing(**{entry.name: getattr(arguments, f"probe_{entry.name}") for entry in fields(Probing)}),
            health_host=arguments.health_host,
            health_port=arguments.health_port,
            log_format=arguments.log_format,
            log_level=arguments.log_level,
            once=arguments.once or arguments.dry_run,
            dry_run=arguments.dry_run,
            output=arguments.output,
            uninstall=arguments.uninstall,
        )

    def check(self) -> None:
        """Refused: a setting that cannot be, by the name of its flag."""
        self.dataplane.check()
        self.probing.check()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the agent's flags to ``parser``."""
    node_name = os.environ.get("NODE_NAME") or socket.gethostname().lower()
    parser.add_argument("--node-name", default=node_name, help="name of this Node ($NODE_NAME, else the host name)")
    parser.add_argument("--kubeconfig", type=Path, default=None, help="kubeconfig of the local cluster")
    parser.add_argument("--context", default=None, help="context in that kubeconfig")
    marks = parser.add_argument_group("data plane")
    for entry in fields(Dataplane):
        flag = f"--{entry.name.replace('_', '-')}"
        if isinstance(entry.default, bool):
            switch = argparse.BooleanOptionalAction
            marks.add_argument(flag, action=switch, default=entry.default, help=_HELP[entry.name])
        else:
            kind = type(entry.default)
            marks.add_argument(flag, type=kind, default=entry.default, help=_HELP[entry.name])
    probes = parser.add_argument_group("probes of paths to remote nodes")
    for entry in (entry for entry in fields(Probing) if entry.name in _PROBE_HELP):
        flag = f"--probe-{entry.name.replace('_s', '').replace('_', '-')}"
        name = f"probe_{entry.name}"
        probes.add_argument(
            flag, dest=name, type=type(entry.default), default=entry.default, help=_PROBE_HELP[entry.name]
        )
    parser.add_argument("--health-host", default="127.0.0.1", help="address of /healthz, /readyz and /metrics")
    parser.add_argument("--health-port", type=int, default=Ports().agent, help="its port; 0 for none")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="form of a log line")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="from which"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--once", action="store_true", help="reconcile once and exit: 0 when all took, else 1")
    action.add_argument(
        "--uninstall", action="store_true", help="remove every marked kernel object, see that none comes back, exit"
    )
    parser.add_argument("--dry-run", action="store_true", help="with --once: print what it would write, write nothing")
    parser.add_argument("--output", choices=("table", "json"), default="table", help="form of --dry-run")
