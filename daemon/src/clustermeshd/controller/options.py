"""What can be set on a controller, and the flags that set it."""

from __future__ import annotations

import argparse
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from clustermeshd.model import names
from clustermeshd.model.settings import PORTS


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """Settings of one controller process; durations in seconds."""

    kubeconfig: Path | None = None
    context: str | None = None
    identity: str = ""
    namespace: str = names.NAMESPACE
    leader_election: bool = True
    health_host: str = "127.0.0.1"
    health_port: int = PORTS.controller
    log_format: str = "text"
    log_level: str = "info"

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> ControllerOptions:
        return cls(
            kubeconfig=arguments.kubeconfig,
            context=arguments.context,
            identity=arguments.identity,
            namespace=arguments.namespace,
            leader_election=arguments.leader_election,
            health_host=arguments.health_host,
            health_port=arguments.health_port,
            log_format=arguments.log_format,
            log_level=arguments.log_level,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the controller's flags to ``parser``."""
    parser.add_argument(
        "--kubeconfig", type=Path, default=None, help="kubeconfig of the local cluster (default: in-cluster)"
    )
    parser.add_argument("--context", default=None, help="context in that kubeconfig (default: its current one)")
    parser.add_argument(
        "--identity",
        default=f"{socket.gethostname()}_{os.getpid()}",
        help="name under which this replica holds the Lease (default: host name and process id)",
    )
    parser.add_argument("--namespace", default=names.NAMESPACE, help="namespace of the Lease (default: %(default)s)")
    parser.add_argument(
        "--leader-election",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="--no-leader-election for a single replica",
    )
    parser.add_argument("--health-host", default="127.0.0.1", help="address of /healthz, /readyz and /metrics")
    parser.add_argument("--health-port", type=int, default=PORTS.controller, help="its port, 0 = none (%(default)s)")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
