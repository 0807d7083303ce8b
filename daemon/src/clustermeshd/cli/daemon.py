"""``clustermeshd controller|agent``: the two daemons behind one program."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence

from clustermeshd import __version__


def parser() -> argparse.ArgumentParser:
    """The whole command line; options come from the daemons' own modules."""
    from clustermeshd.agent import options as agent
    from clustermeshd.controller import options as controller

    top = argparse.ArgumentParser(prog="clustermeshd", description="Cluster mesh for Kubernetes: the daemons.")
    top.add_argument("--version", action="version", version=f"clustermeshd {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    controller.add_arguments(
        commands.add_parser(
            "controller",
            help="read remote clusters, mirror their nodes, federate Services (one per cluster leads)",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
    )
    agent.add_arguments(
        commands.add_parser(
            "agent",
            help="program the overlay of this node (one per node)",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; imports only the daemon that is asked for."""
    gc.disable()  # to look for garbage in what is being imported takes a sixth of the start
    arguments = parser().parse_args(argv)
    if arguments.command == "controller":
        from clustermeshd.controller.main import run as run_controller
        from clustermeshd.controller.options import ControllerOptions

        gc.enable()
        return run_controller(ControllerOptions.of(arguments))
    from clustermeshd.agent.main import run as run_agent
    from clustermeshd.agent.options import AgentOptions

    gc.enable()
    return run_agent(AgentOptions.of(arguments))


if __name__ == "__main__":
    sys.exit(main())
