"""``clustermesh``: the people's command, anywhere with a kubeconfig."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from clustermeshd import __version__
from clustermeshd.cli import evaluate, status
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client
from clustermeshd.model.errors import MeshError
from clustermeshd.runtime.logs import escape
from clustermeshd.selector import parse

_AGENT = f"clustermesh/{__version__}"
Command = Callable[[Client, argparse.Namespace], Awaitable[int]]

_EXAMPLES = """\
examples:
  clustermesh status                                   peers, nodes and federated Services of this cluster
  clustermesh status --wait 60                         wait until every peer is in sync
  clustermesh eval "app == 'reviews'"                  what a selector selects, here and in every peer
  clustermesh --kubeconfig west.kubeconfig status -o json
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="clustermesh",
        description="Looks at a cluster mesh from one of its clusters.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"clustermesh {__version__}")
    top.add_argument(
        "--kubeconfig",
        type=Path,
        default=os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config",
        help="kubeconfig of the cluster (default: $KUBECONFIG, then ~/.kube/config)",
    )
    top.add_argument("--context", default=None, help="context in that kubeconfig (default: its current one)")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    shown = commands.add_parser(
        "status", help="peers, nodes and federated Services; exit status 1 when not all is well"
    )
    shown.add_argument("-o", "--output", choices=("table", "json"), default="table")
    shown.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait so long for all to be well")
    shown.set_defaults(run=_status)
    evaluated = commands.add_parser("eval", help="pods and Services that a selector selects, in all clusters")
    evaluated.add_argument("selector", help="for example: app == 'reviews' && has(version)")
    evaluated.add_argument("-o", "--output", choices=("table", "json"), default="table")
    evaluated.set_defaults(run=_eval)
    return top


async def _status(client: Client, arguments: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + arguments.wait
    view = await status.read(client)
    while not status.is_ready(view) and loop.time() < deadline:
        await asyncio.sleep(0.5)
        view = await status.read(client)
    print(status.as_json(view) if arguments.output == "json" else status.text(view))
    return 0 if status.is_ready(view) else 1


async def _eval(client: Client, arguments: argparse.Namespace) -> int:
    selector = parse(arguments.selector)
    answer = await evaluate.evaluate(client, selector, user_agent=_AGENT)
    if arguments.output == "json":
        document = {
            "selector": str(selector),
            "found": [{"kind": f.kind, "name": f.name, "addresses": f.addresses} for f in answer.found],
            "failed": dict(answer.failed),
        }
        print(json.dumps(document, indent=2))
    else:
        print(f"Matching {selector}:")
        for found in answer.found:
            print(escape(f"{found.kind} {found.name} {','.join(found.addresses)}".rstrip()))
    for peer, why in answer.failed:
        print(escape(f"peer {peer}: {why}"), file=sys.stderr)
    return 1 if answer.failed else 0


async def _run(arguments: argparse.Namespace) -> int:
    command: Command = arguments.run
    access = await from_file(Path(arguments.kubeconfig), arguments.context)
    async with Client(access, user_agent=_AGENT) as client:
        return await command(client, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 all well, 1 not, 2 wrong use."""
    arguments = parser().parse_args(argv)
    try:
        return asyncio.run(_run(arguments))
    except MeshError as error:
        print(f"clustermesh: {escape(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
