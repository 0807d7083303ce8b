"""The selector language against the rules of facts about Calico's parser (tables of our own)."""

import pytest
from clustermeshd.selector import SelectorError, ast, parse
from hypothesis import given, settings
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


_TREES = st.recursive(
    st.one_of(
        st.just(ast.All()),
        st.builds(ast.Has, _LABELS),
        st.builds(ast.Equal, _LABELS, _VALUES, st.booleans()),
        st.builds(ast.Contains, _LABELS, _VALUES),
        st.builds(ast.StartsWith, _LABELS, _VALUES),
        st.builds(ast.EndsWith, _LABELS, _VALUES),
        st.builds(ast.In, _LABELS, st.sets(_VALUES, max_size=3).map(lambda v: tuple(sorted(v))), st.booleans()),
    ),
    lambda inner: st.one_of(
        st.builds(ast.And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(ast.Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(ast.Not, st.one_of(inner.filter(lambda tree: not isinstance(tree, ast.Not)))),
    ),
    max_leaves=10,
)


@given(_TREES)
def test_the_text_of_a_tree_gives_the_same_tree(tree):
    assert parse(str(tree)) == tree


def fuzz(data: bytes) -> None:
    """Target of a fuzzer: no text does anything but parse to something stable, or be refused with a position in it."""
    text = data.decode(errors="surrogateescape")
    position = 0
    try:
        canonical = str(parse(text))
    except SelectorError as error:
        position, canonical = error.position, ""
    assert 0 <= position <= len(text)
    assert not canonical or str(parse(canonical)) == canonical


_WORDS = [
    b"a",
    b"==",
    b"!=",
    b"'b'",
    b'"',
    b"in",
    b"not",
    b"{",
    b"}",
    b",",
    b"(",
    b")",
    b"&&",
    b"||",
    b"!",
    b" ",
    b"\n",
]
_SOUP = st.lists(
    st.one_of(st.sampled_from([*_WORDS, b"has(a)", b"all()", b"contains"]), st.binary(max_size=3)), max_size=40
)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(_SOUP.map(b"".join))
def test_fuzz_of_words_and_bytes(data):
    fuzz(data)


@given(_SOUP.map(b"".join))
def test_no_soup_of_words_breaks_the_parser(data):
    fuzz(data)
