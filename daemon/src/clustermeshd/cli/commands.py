"""Each command of ``clustermesh`` from its arguments to what is printed; the exit status is what they return."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from clustermeshd.cli import check, evaluate, services, session, status
from clustermeshd.cli.output import Document, serialized
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import NotFound
from clustermeshd.model.errors import Fatal
from clustermeshd.runtime.logs import escape
from clustermeshd.selector import parse

_POLL_S = 0.5


async def run(arguments: argparse.Namespace) -> int:
    """Runs the command that was asked for; errors of the local cluster come out as MeshError."""
    command: Callable[[Client, argparse.Namespace], Awaitable[int]] = {
        "status": _status,
        "services": _services,
        "eval": _eval,
        "check": _check,
    }[arguments.command]
    if arguments.command == "eval":
        parse(arguments.selector)  # a mistake in it needs no cluster to be told
    access = await session.local(arguments.kubeconfig, arguments.context)
    async with session.client(access, arguments.timeout) as client:
        return await command(client, arguments)


async def _status(client: Client, arguments: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + arguments.wait
    view = await status.read(client)
    while not view.well and loop.time() < deadline:
        await asyncio.sleep(_POLL_S)
        view = await status.read(client)
    _show(view, arguments, lambda wide: status.text(view, wide=wide))
    return 0 if view.well else 1


async def _services(client: Client, arguments: argparse.Namespace) -> int:
    namespace = None if arguments.all_namespaces else arguments.namespace or _namespace(arguments)
    view = await services.read(
        client,
        namespace,
        await session.peers(client),
        name=arguments.name,
        remote=arguments.remote,
        timeout_s=arguments.timeout,
    )
    if arguments.name and not view.services:
        where = f"in namespace {namespace}" if namespace else "in any namespace"
        raise NotFound(f"no federated Service {arguments.name} {where}; clustermesh services -A lists them")
    _show(view, arguments, lambda wide: services.text(view, wide=wide, detail=bool(arguments.name)))
    return 0 if view.well else 1


async def _eval(client: Client, arguments: argparse.Namespace) -> int:
    answer = await evaluate.evaluate(
        client,
        parse(arguments.selector),
        namespace=arguments.namespace,
        services=arguments.services,
        timeout_s=arguments.timeout,
    )
    _show(answer, arguments, lambda wide: evaluate.text(answer, wide=wide))
    complaints = evaluate.complaints(answer)
    for line in complaints:
        print(escape(line), file=sys.stderr)
    return 1 if complaints else 0


async def _check(client: Client, arguments: argparse.Namespace) -> int:
    if len(arguments.peer_context) > len(arguments.peer_kubeconfig):
        raise Fatal("more --peer-context than --peer-kubeconfig; give each context its file")
    contexts = [*arguments.peer_context, *[None] * len(arguments.peer_kubeconfig)]
    report = await check.check(
        client,
        only=arguments.peer,
        others=list(zip(arguments.peer_kubeconfig, contexts, strict=False)),
        timeout_s=arguments.timeout,
    )
    _show(report, arguments, lambda _: check.text(report))
    return 0 if report.well else 1


def _namespace(arguments: argparse.Namespace) -> str:
    kubeconfig: Path | None = arguments.kubeconfig
    return session.namespace_of(kubeconfig, arguments.context)


def _show(view: Document, arguments: argparse.Namespace, text: Callable[[bool], str]) -> None:
    form = arguments.output
    print(serialized(view, form) if form in ("json", "yaml") else text(form == "wide"))
    sys.stdout.flush()
