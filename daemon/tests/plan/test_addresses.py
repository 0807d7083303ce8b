"""Addresses as numbers."""

from __future__ import annotations

import pytest
from clustermeshd.model.addresses import Ranges, parse_point, parse_prefix
from hypothesis import given
from hypothesis import strategies as st

WITHIN = Ranges(map(parse_prefix, ("10.2.0.0/16", "10.3.0.7/32", "fd00:2::/64", "::/64")))
NEAR = ("10.2.0.0", "10.2.255.255", "10.1.255.255", "10.3.0.0", "10.3.0.7", "10.3.0.8", "fd00:2::", "fd00:2:0:1::")
ODD = (
    "",
    "10.2.0",
    "010.2.0.5",
    "10.2.0.5/32",
    "10.2.0.256",
    "fe80::1%eth0",
    "::ffff:10.2.0.5",
    "::fffe:1.2.3.4",
    "a\0b",
    "é",
)
TEXTS = st.one_of(st.sampled_from(NEAR + ODD), st.ip_addresses().map(str), st.text(max_size=12))


@pytest.mark.parametrize("text", NEAR + ODD)
@pytest.mark.parametrize("family", [4, 6])
def test_a_set_holds_an_address_of_the_family_that_was_asked_for_and_nothing_odd(text, family):
    point = parse_point(text)
    assert WITHIN.holds_all([text], family) == (point is not None and point.family == family and point in WITHIN)


@given(st.lists(TEXTS, max_size=4), st.sampled_from((4, 6)))
def test_what_a_set_holds_in_one_loop_it_holds_one_by_one(texts, family):
    points = list(map(parse_point, texts))
    each = all(point is not None and point.family == family and point in WITHIN for point in points)
    assert WITHIN.holds_all(texts, family) == each
