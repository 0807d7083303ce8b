"""The frame of the benchmarks: what it lists, what it says, and when it fails. No timing here."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as cli
from bench.report import BenchError, Ratio, exit_status, in_turn, percentile, ratio_of

ROOT = Path(__file__).parents[1]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


@pytest.fixture
def result(monkeypatch: pytest.MonkeyPatch) -> list[Ratio]:
    """Ratios that the benchmark ``resync-idle`` returns instead of running."""
    ratios: list[Ratio] = []
    module = cli._module("resync-idle")
    monkeypatch.setattr(module, "run", lambda options: ratios)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return ratios


def test_list_and_no_name_name_every_benchmark() -> None:
    listed = bench("--list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(cli.NAMES)
    assert bench().stdout == listed.stdout


def test_every_benchmark_explains_its_options() -> None:
    for name in cli.NAMES:
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0


def test_the_readme_tells_of_every_benchmark() -> None:
    text = (ROOT / "bench" / "README.md").read_text()
    assert [name for name in cli.NAMES if f"`{name}`" not in text] == []


def test_an_unknown_name_is_wrong_usage() -> None:
    assert bench("no-such-benchmark").returncode == 2


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert cli.main(["resync-idle"]) == 2
    assert "root" in capsys.readouterr().err


def test_within_the_limits_the_last_lines_are_the_ratios(
    result: list[Ratio], capsys: pytest.CaptureFixture[str]
) -> None:
    result += [Ratio("resync-idle", 0.25, 0.5), Ratio("resync-idle/writes", 0, 0)]
    assert cli.main(["resync-idle"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "resync-idle ratio=0.25 limit=0.5 (at most) ok",
        "resync-idle/writes ratio=0 limit=0 (at most) ok",
    ]


def test_one_ratio_beyond_its_limit_fails_the_run(result: list[Ratio], capsys: pytest.CaptureFixture[str]) -> None:
    result += [Ratio("resync-idle", 0.75, 0.5), Ratio("resync-idle/writes", 0, 0)]
    assert cli.main(["resync-idle"]) == 1
    assert "resync-idle ratio=0.75 limit=0.5 (at most) BEYOND" in capsys.readouterr().out


def test_a_benchmark_that_cannot_run_says_why_and_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> list[Ratio]:
        raise BenchError("needs iperf3")

    monkeypatch.setattr(cli._module("throughput"), "run", fail)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cli.main(["throughput"]) == 2
    assert "needs iperf3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ratio", "holds"),
    [
        (Ratio("x", 0.5, 0.5), True),
        (Ratio("x", 0.51, 0.5), False),
        (Ratio("x", 0.97, 0.97, at_least=True), True),
        (Ratio("x", 0.96, 0.97, at_least=True), False),
        (Ratio("x", math.nan, 1), False),
        (Ratio("x", math.nan, 1, at_least=True), False),
    ],
)
def test_a_limit_is_the_last_value_that_holds(ratio: Ratio, holds: bool) -> None:
    assert ratio.holds is holds


def test_a_run_without_ratios_is_no_success() -> None:
    assert exit_status([]) == 1


def test_ways_take_turns_in_both_orders() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return len(order)

    samples = in_turn(3, {"a": lambda: way("a"), "b": lambda: way("b")})
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert samples == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_ratio_is_of_medians_and_percentiles_are_values_that_were_seen() -> None:
    assert ratio_of({"a": [1, 2, 9], "b": [4, 4, 400]}, "a", "b") == 0.5
    assert ratio_of({"a": [1], "b": [0]}, "a", "b") == math.inf
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([3.0], 99) == 3.0
