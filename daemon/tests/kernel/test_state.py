"""What was found, against what was expected: the expected values stand for it only where they are all of it."""

from __future__ import annotations

import pytest
from clustermeshd.kernel.state import Nexthop, found, keyed

A, B, C = (Nexthop(number, "clustermesh0", bytes((10, 0, 0, number))) for number in (1, 2, 3))
MOVED = Nexthop(A.id, A.device, b"\x0a\x00\x00\x09")


def copies(*values: Nexthop) -> list[Nexthop]:
    return [Nexthop(value.id, value.device, value.gateway) for value in values]


def test_what_is_exactly_as_expected_is_the_expectation_itself():
    expected = keyed([A, B])
    assert found(lambda: copies(B, A), expected) is expected


@pytest.mark.parametrize(
    "values",
    [(A,), (A, B, C), (MOVED, B), (A, A), (C, B), ()],
    ids=["less", "more", "moved", "twice", "other", "none"],
)
def test_anything_else_is_told_as_it_is(values: tuple[Nexthop, ...]):
    expected = keyed([A, B])
    got = found(lambda: copies(*values), expected)
    assert got is not expected
    assert dict(got) == {value.key: value for value in values}


def test_a_value_that_is_known_is_in_memory_once_and_one_that_changed_is_the_new_one():
    got = keyed(copies(A, B), keyed([MOVED, B]))
    assert got[B.key] is B
    assert got[A.key] == A
