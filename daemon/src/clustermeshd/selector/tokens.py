"""Words of the selector language, with the place each stands at.

The lexer depends on what came before: word operators (``contains``, ``in`` ...) are operators only directly after a
label, so they may be label names too. Blanks are space and tab only. Source of the rules: Calico's
libcalico-go/lib/selector/tokenizer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from clustermeshd.model.errors import Refused

MAX_LABEL_BYTES = 512


class SelectorError(Refused):
    """A text that is no selector; ``position`` is the offset of the first character that does not fit."""

    def __init__(self, text: str, position: int, problem: str) -> None:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        super().__init__(
            "InvalidSelector",
            f"{problem} at character {position + 1} of {shown!r}",
            where="selector",
            fix="write for example: app == 'reviews' && has(version)",
        )
        self.position = position


class Kind(Enum):
    LABEL = auto()
    STRING = auto()
    OPERATOR = auto()  # ==, !=, in, not in, contains, starts with, ends with
    FUNCTION = auto()  # all(), global(), has(label): value holds the name, or the label of has()
    SYMBOL = auto()  # ! && || ( ) { } ,
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    position: int
    label: str = ""  # of has(label)


_BLANK = re.compile(r"[ \t]*")
_LABEL = re.compile(r"[A-Za-z0-9_./-]+")
_STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
_FUNCTION = re.compile(r"(all|global)\([ \t]*\)")
_HAS = re.compile(r"has\([ \t]*([A-Za-z0-9_./-]*)[ \t]*(\)?)")
_SYMBOL = re.compile(r"&&|\|\||[!(){},]")
# a word operator ends before a character that cannot be part of a label
_WORD = re.compile(r"(contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in|in)(?![A-Za-z0-9_./-])")
_COMPARISON = re.compile(r"==|!=")
_CANONICAL = {"startswith": "starts with", "endswith": "ends with", "notin": "not in"}


def tokenize(text: str) -> list[Token]:
    """Tokens of a selector, the last of kind END; SelectorError where a character fits nowhere."""
    tokens: list[Token] = []
    position = _skip(text, 0)
    while position < len(text):
        after_label = bool(tokens) and tokens[-1].kind is Kind.LABEL
        token, end = _next(text, position, after_label=after_label)
        tokens.append(token)
        position = _skip(text, end)
    tokens.append(Token(Kind.END, "", len(text)))
    return tokens


def _skip(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _next(text: str, at: int, *, after_label: bool) -> tuple[Token, int]:
    if after_label:
        if match := _COMPARISON.match(text, at):
            return Token(Kind.OPERATOR, match[0], at), match.end()
        if match := _WORD.match(text, at):
            word = re.sub(r"[ \t]+", "", match[0])
            return Token(Kind.OPERATOR, _CANONICAL.get(word, word), at), match.end()
        if _LABEL.match(text, at):
            raise SelectorError(text, at, "expected an operator after a label")
    if match := _STRING.match(text, at):
        return Token(Kind.STRING, match[0][1:-1], at), match.end()
    if text[at] in "\"'":
        raise SelectorError(text, at, "quote without its end")
    if match := _FUNCTION.match(text, at):
        return Token(Kind.FUNCTION, match[1], at), match.end()
    if match := _HAS.match(text, at):
        return _has(text, at, match), match.end()
    if match := _LABEL.match(text, at):
        if len(match[0]) > MAX_LABEL_BYTES:
            raise SelectorError(text, at, f"label longer than {MAX_LABEL_BYTES} bytes")
        return Token(Kind.LABEL, match[0], at), match.end()
    if match := _SYMBOL.match(text, at):
        return Token(Kind.SYMBOL, match[0], at), match.end()
    raise SelectorError(text, at, f"unexpected {text[at]!r}")


def _has(text: str, at: int, match: re.Match[str]) -> Token:
    if not match[1]:
        raise SelectorError(text, at, "has() without a label")
    if len(match[1]) > MAX_LABEL_BYTES:
        raise SelectorError(text, at, f"label longer than {MAX_LABEL_BYTES} bytes")
    if not match[2]:
        raise SelectorError(text, at, "has( without its )")
    return Token(Kind.FUNCTION, "has", at, label=match[1])
