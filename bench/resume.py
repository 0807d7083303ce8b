"""``resume``: restart of the controller until it is in sync, against one paged list of the same objects.

The reference reads what the controller has to read, remote and local, by the raw client, one kind after the other,
in pages of 500 (kubectl's), and decodes it. Both start in a process of their own; the time of imports counts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from bench.federation import Clusters, Size, clusters, controller, environment
from bench.report import Ratio, Table

_LIST = """
import asyncio, sys
from pathlib import Path
from clustermeshd.kube import resources
from clustermeshd.kube.access import from_file
from clustermeshd.kube.client import Client

async def main():
    count = 0
    for path in sys.argv[1:]:
        async with Client(await from_file(Path(path)), user_agent="bench") as client:
            for kind in (resources.NODES, resources.SERVICES, resources.ENDPOINT_SLICES, resources.ENDPOINTS):
                found, _ = await client.list(kind, limit=500)
                count += len(found)
    print(count)

asyncio.run(main())
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--endpoints", type=int, default=50, help="of each remote Service")
    parser.add_argument("--rounds", type=int, default=5)


def run(options: argparse.Namespace) -> list[Ratio]:
    size = Size(services=options.services, endpoints=options.endpoints)
    table = Table("way", "seconds", "CPU s", "writes")
    ours, reference, written = [], [], 0
    with clusters(size) as (made, directory):
        made.fill()
        made.join()
        with controller(made.local.kubeconfig, directory) as running:
            running.until_in_sync(size.remotes, size.services)
            time.sleep(15)  # Endpoints objects and status follow at their own rate
        for _ in range(options.rounds):
            reference.append(_reference(made))
            table.row("list", reference[-1], "", "")
            before = made.writes()
            started = time.perf_counter()
            with controller(made.local.kubeconfig, directory) as running:
                running.until_in_sync(size.remotes, size.services)
                ours.append(time.perf_counter() - started)
                cpu_s = running.cpu_s()
                time.sleep(2)
            written += made.writes() - before
            table.row("ours", ours[-1], cpu_s, made.writes() - before)
    return [
        Ratio("resume", statistics.median(ours) / statistics.median(reference), 1.5),
        Ratio("resume/writes", written, 0),
    ]


def _reference(made: Clusters) -> float:
    files = [str(api.kubeconfig) for api in (made.local, *made.remotes)]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", _LIST, *files], env=environment(), check=True, capture_output=True, timeout=300
    )
    return time.perf_counter() - started
