"""``clustermesh``: the people's command, anywhere with a kubeconfig.

Commands are imported when they run, so that a shell's completion need not wait for libraries it has no use for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import argcomplete
from argcomplete.shell_integration import shellcode

from clustermeshd import __version__

_FORMS = ("table", "wide", "json", "yaml")
SHELLS = ("bash", "zsh", "fish")
_TIMEOUT_S = 10.0

_EXAMPLES = """\
examples:
  clustermesh status                             peers, nodes and federated Services of this cluster
  clustermesh services -A                        every federated Service with what backs it
  clustermesh eval "app == 'reviews'"            pods that a selector matches, here and in every peer
  clustermesh check                              everything that can be wrong between this cluster and its peers
  source <(clustermesh completion bash)          complete commands and options in this shell

exit status:
  0 all is well    1 something is not    2 wrong use, or this cluster cannot be asked
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="clustermesh",
        description="Looks at a cluster mesh from one of its clusters. It only reads.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"clustermesh {__version__}")
    _add_access(top, top_level=True)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_status(commands)
    _add_services(commands)
    _add_eval(commands)
    _add_check(commands)
    completion = _command(commands, "completion", "the script by which a shell completes this command", _COMPLETION)
    completion.add_argument("shell", choices=SHELLS)
    return top


def _add_access(target: argparse.ArgumentParser, *, top_level: bool) -> None:
    """Options that may stand before or after the command: a command's own default must not hide what came before."""

    def default(value: object) -> object:
        return value if top_level else argparse.SUPPRESS

    group = target.add_argument_group("cluster")
    group.add_argument(
        "--kubeconfig",
        type=Path,
        default=default(None),
        metavar="FILE",
        help="kubeconfig of the cluster (default: $KUBECONFIG, ~/.kube/config, inside a pod its service account)",
    )
    group.add_argument(
        "--context", default=default(None), metavar="NAME", help="context in it (default: its current one)"
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        default=default(_TIMEOUT_S),
        metavar="SECONDS",
        help=f"how long to wait for an answer of a server (default: {_TIMEOUT_S:g})",
    )


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],  # the only name argparse gives it
    name: str,
    summary: str,
    epilog: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _reader(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    epilog: str,
) -> argparse.ArgumentParser:
    made = _command(commands, name, summary, epilog)
    made.add_argument("-o", "--output", choices=_FORMS, default="table", help="form of the answer (default: table)")
    _add_access(made, top_level=False)
    return made


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _reader(commands, "status", "peers, nodes and federated Services, and what is wrong with them", _STATUS)
    made.add_argument(
        "--wait", type=seconds, default=0.0, metavar="SECONDS", help="wait up to so long for all to be well"
    )


def _add_services(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _reader(commands, "services", "federated Services, what backs them in each cluster, endpoints", _SERVICES)
    where = made.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", metavar="NS", help="namespace (default: the context's, else default)")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    made.add_argument("--remote", action="store_true", help="ask the peers which of their Services back these")
    made.add_argument("name", nargs="?", metavar="NAME", help="everything about one Service")


def _add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _reader(commands, "eval", "endpoints that a selector matches, here and in every peer", _EVAL)
    made.add_argument("-n", "--namespace", metavar="NS", help="only in this namespace (default: all)")
    made.add_argument("--services", action="store_true", help="Services in place of pods, as federation selects them")
    made.add_argument("selector", metavar="SELECTOR", help="for example: app == 'reviews' && has(version)")


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _reader(commands, "check", "every step of troubleshooting, one line each, with what to do", _CHECK)
    made.add_argument(
        "--peer-kubeconfig",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="kubeconfig of a peer, to look at the other direction too; may be given again for each peer",
    )
    made.add_argument(
        "--peer-context", action="append", default=[], metavar="NAME", help="context in it, in the same order"
    )
    made.add_argument("peer", nargs="*", metavar="PEER", help="only these RemoteClusterConfigurations (default: all)")


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("between 0 and 3600 seconds")
    return value


_STATUS = """\
examples:
  clustermesh status
  clustermesh status --wait 60 && echo meshed
  clustermesh --kubeconfig west.kubeconfig status -o json | jq '.problems[].fix'
"""
_SERVICES = """\
examples:
  clustermesh services -A
  clustermesh services -n bookinfo reviews --remote
  clustermesh services -A -o json | jq '.services[] | select(.problems != []) | .name'
"""
_EVAL = """\
examples:
  clustermesh eval "all()"
  clustermesh eval "app == 'reviews' && version in {'v1', 'v2'}" -o wide
  clustermesh eval --services "federation.tigera.io/remoteClusterName == 'west'"
"""
_CHECK = """\
examples:
  clustermesh check
  clustermesh check west --timeout 3
  clustermesh check --peer-kubeconfig west.kubeconfig
"""
_COMPLETION = """\
examples:
  source <(clustermesh completion bash)                                   this shell; for all, put it in ~/.bashrc
  clustermesh completion zsh > "${fpath[1]}/_clustermesh"
  clustermesh completion fish > ~/.config/fish/completions/clustermesh.fish
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 all well, 1 not, 2 wrong use or no answer of this cluster."""
    made = parser()
    argcomplete.autocomplete(made)
    arguments = made.parse_args(argv)
    if arguments.command == "completion":
        print(shellcode(["clustermesh"], shell=arguments.shell))
        return 0
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from clustermeshd.cli.commands import run
    from clustermeshd.model.errors import MeshError
    from clustermeshd.runtime import logs

    logs.configure(level="error")
    try:
        return asyncio.run(run(arguments))
    except MeshError as error:
        print(f"clustermesh: {logs.escape(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
