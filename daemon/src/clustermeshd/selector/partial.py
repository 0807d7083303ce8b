"""What a selector says of an object of which only some labels are known (Kleene's logic: None = the others decide)."""

from __future__ import annotations

from clustermeshd.selector.ast import And, Contains, EndsWith, Equal, Has, In, Labels, Not, Or, Selector, StartsWith


def verdict(selector: Selector, known: Labels) -> bool | None:
    """Whether the object is selected whatever its other labels are; None where it depends on them."""
    match selector:
        case Not(operand):
            said = verdict(operand, known)
            return None if said is None else not said
        case And(operands):
            told = [verdict(operand, known) for operand in operands]
            return False if False in told else None if None in told else True
        case Or(operands):
            told = [verdict(operand, known) for operand in operands]
            return True if True in told else None if None in told else False
        case Has() | Equal() | In() | Contains() | StartsWith() | EndsWith():
            return selector.matches(known) if selector.label in known else None
        case _:
            return selector.matches(known)
