"""The state of a path as a function of its results, and which paths are probed."""

from __future__ import annotations

import itertools

import pytest
from clustermeshd.plan.paths import Path, Result, Target, sample, summarise
from hypothesis import given
from hypothesis import strategies as st

TARGET = Target("west", "node1", 4, "10.92.1.0", "10.91.1.0", "Enabled", 1450)
GOOD = Result(small=True, full=True, heard=True, rtt_s=0.001)
LOST = Result(small=False, full=False, heard=False)
TOO_LARGE = Result(small=True, full=False, heard=True, rtt_s=0.001)


def seen(*results: Result) -> Path:
    path = Path(TARGET)
    for number, result in enumerate(results):
        path.see(result, float(number))
    return path


@pytest.mark.parametrize(
    ("results", "state", "reason"),
    [
        ([], "unknown", "NotProbedYet"),
        ([GOOD], "unknown", "NotProbedYet"),
        ([GOOD] * 2, "reachable", "Answered"),
        ([GOOD] * 2 + [LOST] * 2, "reachable", "Answered"),
        ([GOOD] * 2 + [LOST] * 3, "unreachable", "NoAnswer"),
        ([LOST] * 3, "unreachable", "NoAnswer"),
        ([LOST] * 2 + [LOST._replace(heard=True)], "unreachable", "OutboundLost"),
        ([LOST] * 3 + [GOOD], "unreachable", "OutboundLost"),
        ([LOST] * 3 + [GOOD] * 2, "degraded", "Loss"),
        ([LOST] * 3 + [GOOD] * 12, "reachable", "Answered"),
        ([GOOD, LOST] * 5, "degraded", "Loss"),
        ([GOOD] * 2 + [TOO_LARGE] * 2, "reachable", "Answered"),
        ([GOOD] * 2 + [TOO_LARGE] * 3, "black-holed", "FullSizeLost"),
        ([TOO_LARGE] * 3 + [GOOD] * 2, "reachable", "Answered"),
        ([TOO_LARGE] * 3 + [LOST] * 3, "unreachable", "NoAnswer"),
        ([GOOD._replace(full=None)] * 9, "reachable", "Answered"),
    ],
)
def test_states_change_after_several_results_in_a_row(results: list[Result], state: str, reason: str) -> None:
    path = seen(*results)
    assert (path.state, path.reason) == (state, reason)


@given(st.lists(st.sampled_from([GOOD, GOOD, GOOD, LOST]), min_size=2, max_size=60))
def test_a_single_loss_never_changes_a_good_path(results: list[Result]) -> None:
    spread = [result for group in ([r] + [GOOD] * 9 for r in results) for result in group]
    path = seen(GOOD, GOOD)
    for number, result in enumerate(spread):
        path.see(result, float(number))
        assert path.state == "reachable"


@given(st.lists(st.sampled_from([GOOD, LOST, TOO_LARGE]), max_size=40))
def test_the_same_results_give_the_same_path_and_a_good_run_mends_any(results: list[Result]) -> None:
    assert seen(*results) == seen(*results)
    assert seen(*results, *[GOOD] * 10).state == "reachable"
    assert seen(*results, *[LOST] * 3).state == "unreachable"


def search(path: Path, limit: int, rounds: int, *, lost: int = 0) -> list[int | None]:
    """Rounds on a way that takes ``limit`` bytes; in round number ``lost`` every sized probe gets lost."""
    found = []
    for number in range(1, rounds + 1):
        sizes = tuple((size, size <= limit and number != lost) for size in path.sizes())
        path.see(TOO_LARGE._replace(sizes=sizes), float(number))
        found.append(path.mtu)
    return found


@given(st.integers(600, 1449))
def test_the_search_finds_what_passes_and_says_nothing_before_its_end(limit: int) -> None:
    found = search(Path(TARGET), limit, 12)
    assert {mtu for mtu in found if mtu is not None} == {found[-1]}
    assert found[-1] is not None
    assert limit - 8 <= found[-1] <= limit


@given(st.integers(700, 1440), st.integers(600, 1440))
def test_a_way_that_becomes_narrower_is_measured_again(first: int, second: int) -> None:
    path = Path(TARGET)
    search(path, max(first, second), 12)
    (*_, found) = search(path, min(first, second), 20)
    assert found is not None
    assert min(first, second) - 8 <= found <= min(first, second)


def test_a_round_of_bad_luck_does_not_move_a_measured_size() -> None:
    path = Path(TARGET)
    (*_, before) = search(path, 1400, 12)
    assert set(search(path, 1400, 12, lost=3)) == {before}


def targets(clusters: int, nodes: int) -> list[Target]:
    return [
        Target(f"c{c}", f"n{n}", family, address, "10.91.1.0", "Enabled", 1450)
        for c, n in itertools.product(range(clusters), range(nodes))
        for family, address in ((4, f"10.{c}.{n}.0"), (6, f"fd00:{c}:{n}::"))
    ]


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 20), st.integers(0, 500))
def test_a_sample_is_bounded_stable_and_covers_every_cluster(
    clusters: int, nodes: int, count: int, guest: int
) -> None:
    known = targets(clusters, nodes)
    chosen = sample(known, count, guest)
    assert sorted(chosen) == sorted(sample(list(reversed(known)), count, guest))
    found = {(target.cluster, target.node) for target in chosen}
    assert len(found) == min(count, clusters * nodes)
    assert len(chosen) == 2 * len(found)
    if count > clusters:
        assert {target.cluster for target in chosen} == {f"c{c}" for c in range(clusters)}


def test_every_node_has_its_turn() -> None:
    known = targets(3, 8)
    seen_nodes = {(t.cluster, t.node) for guest in range(24) for t in sample(known, 5, guest)}
    assert len(seen_nodes) == 24


def test_the_summary_names_the_worst_first_and_is_bounded() -> None:
    bad = [Path(TARGET._replace(node=f"n{n:02}"), "degraded", "Loss") for n in range(30)]
    bad.append(Path(TARGET._replace(node="z"), "unreachable", "NoAnswer"))
    found = summarise(bad, most=20)
    assert dict(found.counts)["degraded"] == 30
    assert len(found.problems) == 20
    assert found.problems[0].node == "z"
