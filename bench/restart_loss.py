"""restart_loss"""

from __future__ import annotations

import argparse

from bench.report import BenchError, Ratio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> list[Ratio]:
    raise BenchError("not there yet")
