"""The selector language against the rules of facts about Calico's parser (tables of our own)."""

import pytest
from clustermeshd.selector import SelectorError, parse
from hypothesis import given
from hypothesis import strategies as st

MATCHES = [
    ("", {}, True),
    (" ", {"a": "b"}, True),
    ("all()", {}, True),
    ("all( )", {}, True),
    ("global()", {}, True),
    ("a == 'b'", {"a": "b"}, True),
    ("a == 'b'", {"a": "c"}, False),
    ("a == 'b'", {}, False),
    ("a != 'b'", {}, True),
    ("a != 'b'", {"a": "b"}, False),
    ("has(a)", {"a": ""}, True),
    ("has( a )", {"a": ""}, True),
    ("has(a)", {}, False),
    ("a in {'x','y',}", {"a": "y"}, True),
    ("a in {}", {"a": ""}, False),
    ("a not in {}", {}, True),
    ("a notin{'x'}", {"a": "x"}, False),
    ("a notin{'x'}", {}, True),
    ("a contains 'ell'", {"a": "hello"}, True),
    ("a contains ''", {"a": ""}, True),
    ("a contains ''", {}, False),
    ("a starts with 'he'", {"a": "hello"}, True),
    ('a startswith"he"', {"a": "ohe"}, False),
    ("a ends   with 'lo'", {"a": "hello"}, True),
    ("contains contains 'x'", {"contains": "axb"}, True),
    ("in in {'in'}", {"in": "in"}, True),
    ("has == 'all'", {"has": "all"}, True),
    ("all == 'x'", {"all": "x"}, True),
    ("!a == 'b'", {"a": "b"}, False),
    ("!!a == 'b'", {"a": "b"}, True),
    ("! ! ! has(a)", {}, True),
    ("a == '1' || b == '2' && c == '3'", {"a": "1"}, True),
    ("a == '1' || b == '2' && c == '3'", {"b": "2"}, False),
    ("(a == '1' || b == '2') && c == '3'", {"a": "1"}, False),
    ("!(has(a) && has(b))", {"a": ""}, True),
    ('a == "it\'s"', {"a": "it's"}, True),
    ("a == 'new\nline'", {"a": "new\nline"}, True),
    ("app.kubernetes.io/name == 'x'&&b/c-d_e.f=='y'", {"app.kubernetes.io/name": "x", "b/c-d_e.f": "y"}, True),
]
REFUSED = [
    "a",
    "a b",
    "'a' == 'b'",
    "a == b",
    "a = 'b'",
    "a == 'b' & c == 'd'",
    "a == 'b' |",
    "a == 'b",
    "a == \"b'",
    "a %",
    "a in 'b'",
    "a in {b}",
    "a in {,}",
    "a in {'x' 'y'}",
    "a in {'x'",
    "a inf {'x'}",
    "a starts 'x'",
    "(a == 'b'",
    "a == 'b')",
    "()",
    "has()",
    "has(a",
    "has (a)",
    "has(" + "a" * 513 + ")",
    "a" * 513 + " == 'b'",
    "!",
    "a == 'b' &&",
    "|| a == 'b'",
    "a == 'b'\n",
    "all(",
    "ä == 'b'",
    "(" * 10_000,
    "(" * 65 + "all()" + ")" * 65,
    "a == '" + "x" * 20_000 + "'",
]


@pytest.mark.parametrize(("text", "labels", "expected"), MATCHES)
def test_a_selector_matches_as_calico_says_before_and_after_its_canonical_form(text, labels, expected):
    selector = parse(text)
    assert selector.matches(labels) is expected
    again = parse(str(selector))
    assert again.matches(labels) is expected
    assert str(again) == str(selector)


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_is_no_selector_is_refused_with_its_position(text):
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert 0 <= caught.value.position <= len(text)
    assert caught.value.reason == "InvalidSelector"
    assert len(str(caught.value)) < 600


def test_equal_meaning_has_one_canonical_text():
    texts = ["a in {'y', \"x\",'x'}", 'a in {"x","y"}', "a  in{'x','y',}"]
    assert {str(parse(text)) for text in texts} == {'a in {"x", "y"}'}
    assert str(parse("a notin{'x'}")) == 'a not in {"x"}'
    assert str(parse("a == 'q\"q'")) == "a == 'q\"q'"


_LABELS = st.text("abc./-_Z9", min_size=1, max_size=6)
_VALUES = st.text(st.characters(blacklist_characters="'\""), max_size=6)


def _texts(children):
    return st.one_of(
        st.builds("({} && {})".format, children, children),
        st.builds("({} || {})".format, children, children),
        st.builds("!{}".format, children),
    )


_SELECTORS = st.recursive(
    st.one_of(
        st.builds("{} == '{}'".format, _LABELS, _VALUES),
        st.builds('{} != "{}"'.format, _LABELS, _VALUES),
        st.builds("has({})".format, _LABELS),
        st.builds("{} contains '{}'".format, _LABELS, _VALUES),
        st.builds("{} not in {{'{}', '{}'}}".format, _LABELS, _VALUES, _VALUES),
    ),
    _texts,
    max_leaves=12,
)


@given(_SELECTORS, st.dictionaries(_LABELS, _VALUES, max_size=4))
def test_the_canonical_form_keeps_the_meaning(text, labels):
    selector = parse(text)
    assert str(parse(str(selector))) == str(selector)
    assert parse(str(selector)).matches(labels) is selector.matches(labels)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text):
    try:
        selector = parse(text)
    except SelectorError as error:
        position = error.position
    else:
        position = len(str(selector))
    assert position >= 0
