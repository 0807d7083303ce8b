"""``python -m bench NAME [options]``: run one benchmark; 0 within its limits, 1 beyond, 2 where it cannot run."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Protocol

from bench.report import BenchError, Ratio, exit_status, load


class Benchmark(Protocol):
    """What a module of a benchmark offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Its own options."""

    def run(self, options: argparse.Namespace) -> list[Ratio]:
        """Print figures, return ratios. Raises ``BenchError``."""


NAMES = {
    "program-nodes": "10,000 remote nodes from nothing into the kernel, against ip -batch",
    "program-nodes-felix": "10,000 remote nodes from process start to last route, against Calico's Felix",
    "resync-idle": "CPU of a reconcile that finds nothing to do, against ip -j dumps",
    "restart-loss": "packets lost while the agent is killed and started 50 times",
    "mode-switch": "packets lost while a peer leaves the overlay and comes back",
    "throughput": "TCP and small UDP packets pod to remote pod, against a bare VXLAN device",
    "agent-memory": "resident memory of the agent with 10 and 10,000 remote nodes",
    "propagation": "remote pod ready to kube-proxy's rule, against a Service of the local cluster",
    "churn": "100,000 remote endpoints that change: lag, CPU and writes of the controller",
    "controller-memory": "resident memory of the controller with none and 100,000 remote pods",
    "resume": "restart of the controller until in sync, against a paged list of the same objects",
    "mesh-cold": "clusters become a mesh by the playbook, against the documented steps with kubectl",
    "mesh-noop": "the playbook on clusters that are meshed already: time and writes",
    "mesh-add": "one more cluster joins a mesh, against the documented steps with kubectl",
    "mesh-scale": "the playbook on 50 simulated clusters: time and memory against those of 10",
    "event-to-kernel": "RemoteNode written until its route stands, against a shell loop on kubectl and ip",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--list", action="store_true", help="names and what each measures")
    parser.add_argument("name", metavar="NAME", nargs="?", choices=NAMES, help="NAME --help: its options")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given[:1])
    if not chosen.name:
        for name, title in NAMES.items():
            print(f"{name:<21}{title}")
        return 0
    module, own = _module(chosen.name), argparse.ArgumentParser(f"bench {chosen.name}", description=NAMES[chosen.name])
    module.add_arguments(own)
    options = own.parse_args(given[1:])
    if os.geteuid() != 0:
        print(f"{chosen.name} makes network namespaces: run it as root", file=sys.stderr)
        return 2
    return _run(chosen.name, module, options)


def _run(name: str, module: Benchmark, options: argparse.Namespace) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # either way namespaces and processes go
        signal.signal(number, _interrupt)
    print(f"{name}: {NAMES[name]}; {load()}", flush=True)
    try:
        ratios = module.run(options)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except (BenchError, AssertionError, subprocess.SubprocessError, FileNotFoundError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    for ratio in ratios:
        print(ratio)
    return exit_status(ratios)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _module(name: str) -> Benchmark:
    module: Benchmark = importlib.import_module(f"bench.{name.replace('-', '_')}")  # type: ignore[assignment]
    return module


if __name__ == "__main__":
    sys.exit(main())
