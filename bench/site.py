"""Where benchmarks run: network namespaces and agents of the daemon's own tests, removed however the run ends."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_TESTS = Path(__file__).parents[1] / "daemon" / "tests"
for _part in ("kernel", "agent"):
    sys.path.append(str(_TESTS / _part))

from agent_process import Agent, until  # noqa: E402
from agent_site import Site, kubectl  # noqa: E402
from kernel_topology import Namespace, Topology  # noqa: E402

__all__ = [
    "CRDS",
    "Agent",
    "Namespace",
    "Site",
    "Spaces",
    "Topology",
    "children_cpu_s",
    "feed",
    "kubectl",
    "namespaces",
    "node",
    "until",
]

CRDS = Path(__file__).parents[1] / "roles" / "mesh_crds" / "files"


@contextlib.contextmanager
def namespaces() -> Iterator[Spaces]:
    """Maker of namespaces."""
    with contextlib.ExitStack() as stack:
        yield Spaces(stack)


class Spaces:
    """Makes namespaces; each goes when the stack closes."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def __call__(self, name: str) -> Namespace:
        space = Namespace(name)
        self._stack.callback(space.close)
        return space


@contextlib.contextmanager
def node(name: str = "n") -> Iterator[Namespace]:
    """A namespace with an underlay ``eth0`` (10.90.1.2/24, MTU 1500, default route) whose other end is silent."""
    with namespaces() as make:
        space = make(name)
        space.sysctl("net.ipv4.ip_forward=1")
        space.batch("""
            link add eth0 type veth peer name far0
            link set eth0 up
            link set far0 up
            addr add 10.90.1.2/24 dev eth0
            route add default via 10.90.1.1""")
        yield space


def children_cpu_s() -> float:
    """User and system time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def feed(space: Namespace, program: str, *arguments: str, text: Path) -> None:
    """Run ``program`` inside a namespace with a file as standard input."""
    inside = {"ip": ["-n", space.name], "bridge": ["-n", space.name]}.get(program)
    command = [program, *inside, *arguments] if inside else ["ip", "netns", "exec", space.name, program, *arguments]
    with text.open() as source:
        subprocess.run(command, stdin=source, check=True, stdout=subprocess.DEVNULL, timeout=600)
