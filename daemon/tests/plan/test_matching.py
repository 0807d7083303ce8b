"""The index of selectors and labels against asking every selector about every thing."""

from clustermeshd.plan.matching import Matches
from clustermeshd.selector import parse
from clustermeshd.selector.demands import demands
from clustermeshd.selector.partial import verdict
from hypothesis import given
from hypothesis import strategies as st

_LABEL = st.sampled_from(["app", "tier", "x/y"])
_VALUE = st.sampled_from(["", "a", "b", "ab"])
_TEXTS = st.recursive(
    st.one_of(
        st.builds("{} == '{}'".format, _LABEL, _VALUE),
        st.builds("{} != '{}'".format, _LABEL, _VALUE),
        st.builds("has({})".format, _LABEL),
        st.builds("{} contains '{}'".format, _LABEL, _VALUE),
        st.builds("{} in {{'{}', '{}'}}".format, _LABEL, _VALUE, _VALUE),
        st.builds("{} not in {{'{}'}}".format, _LABEL, _VALUE),
        st.sampled_from(["all()", "app in {}", ""]),
    ),
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner.filter(bool), inner.filter(bool)),
        st.builds("({} || {})".format, inner.filter(bool), inner.filter(bool)),
        st.builds("!{}".format, inner.filter(bool)),
    ),
    max_leaves=6,
)
_LABELS = st.dictionaries(_LABEL, _VALUE, max_size=3)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("selector"), st.integers(0, 3), st.none() | _TEXTS),
        st.tuples(st.just("labels"), st.integers(0, 5), st.none() | _LABELS),
    ),
    max_size=25,
)


@given(_TEXTS, _LABELS)
def test_what_does_not_meet_the_demands_is_not_selected(text, labels):
    selector = parse(text)
    meets = all(
        label in labels and (values is None or labels[label] in values) for label, values in demands(selector).items()
    )
    assert meets or not selector.matches(labels)


@given(_TEXTS, _LABELS, _LABELS)
def test_what_is_said_of_a_few_labels_holds_whatever_the_others_are(text, known, others):
    selector = parse(text)
    assert verdict(selector, known) in (None, selector.matches({**others, **known}))


@given(_TEXTS, st.tuples(_VALUE, _VALUE, _VALUE))
def test_where_every_label_is_known_the_verdict_is_the_match(text, values):
    labels = dict(zip(("app", "tier", "x/y"), values, strict=True))
    assert verdict(parse(text), labels) is parse(text).matches(labels)


@given(_STEPS)
def test_any_history_ends_where_asking_everybody_ends_and_tells_whom_a_change_concerns(steps):
    index, selectors, things = Matches(), {}, {}
    for kind, name, value in steps:
        if kind == "selector":
            index.set_selector(name, None if value is None else parse(value))
            selectors.pop(name, None)
            if value is not None:
                selectors[name] = parse(value)
            continue
        before = {s for s, selector in selectors.items() if name in things and selector.matches(things[name])}
        concerned = index.set_labels(name, value)
        things.pop(name, None)
        if value is not None:
            things[name] = value
        after = {s for s, selector in selectors.items() if value is not None and selector.matches(value)}
        assert concerned == before | after
    for name, selector in selectors.items():
        assert set(index.selected(name)) == {t for t, labels in things.items() if selector.matches(labels)}
    for thing, labels in things.items():
        assert set(index.selecting(thing)) == {s for s, selector in selectors.items() if selector.matches(labels)}


def test_only_selectors_that_could_match_are_asked():
    index = Matches()
    for number in range(1000):
        index.set_selector(number, parse(f"app == 'a{number}' && has(version)"))
    asked = []

    class Counting(type(parse("app == 'a7'"))):
        __slots__ = ()

        def matches(self, labels):
            asked.append(labels)
            return super().matches(labels)

    index.set_selector("counting", Counting("app", "a7"))
    index.set_labels("one", {"app": "a7", "version": "1"})
    index.set_labels("other", {"app": "a8", "version": "1"})
    assert set(index.selecting("one")) == {7, "counting"}
    assert len(asked) == 1
