"""Text -> selector, by recursive descent over the tokens.

Calico's grammar (libcalico-go/lib/selector/parser/parser.go) knows no limit; a selector comes from an annotation that
any user of a namespace can write, so length and nesting are bounded here.
"""

from __future__ import annotations

from collections.abc import Callable

from clustermeshd.selector import ast
from clustermeshd.selector.tokens import Kind, SelectorError, Token, tokenize

__all__ = ["MAX_LENGTH", "MAX_NESTING", "SelectorError", "parse"]

MAX_LENGTH = 16384  # characters
MAX_NESTING = 64  # parentheses within parentheses


def parse(text: str) -> ast.Selector:
    """Selector of a text; a blank text selects everything. Raises SelectorError with the position of the mistake."""
    if len(text) > MAX_LENGTH:
        raise SelectorError(text, MAX_LENGTH, f"longer than {MAX_LENGTH} characters")
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokenize(text)
        self._index = 0
        self._depth = 0

    def parse(self) -> ast.Selector:
        if self._peek().kind is Kind.END:
            return ast.All()
        selector = self._or()
        if self._peek().kind is not Kind.END:
            raise self._error("expected &&, || or the end")
        return selector

    def _or(self) -> ast.Selector:
        return self._chain("||", self._and, ast.Or)

    def _and(self) -> ast.Selector:
        return self._chain("&&", self._term, ast.And)

    def _chain(
        self, symbol: str, part: Callable[[], ast.Selector], node: type[ast.And] | type[ast.Or]
    ) -> ast.Selector:
        parts = [part()]
        while self._is_symbol(symbol):
            self._take()
            parts.append(part())
        return parts[0] if len(parts) == 1 else node(tuple(parts))

    def _term(self) -> ast.Selector:
        negated = False
        while self._is_symbol("!"):
            self._take()
            negated = not negated
        operand = self._operand()
        return ast.Not(operand) if negated else operand

    def _operand(self) -> ast.Selector:
        token = self._peek()
        if token.kind is Kind.FUNCTION:
            self._take()
            return {"all": ast.All, "global": ast.Global}[token.text]() if not token.label else ast.Has(token.label)
        if token.kind is Kind.LABEL:
            return self._comparison(self._take().text)
        if self._is_symbol("("):
            return self._group()
        raise self._error("expected a label, has(), all(), ! or (")

    def _group(self) -> ast.Selector:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"more than {MAX_NESTING} nested parentheses")
        self._take()
        inner = self._or()
        if not self._is_symbol(")"):
            raise self._error("expected )")
        self._take()
        self._depth -= 1
        return inner

    def _comparison(self, label: str) -> ast.Selector:
        if self._peek().kind is not Kind.OPERATOR:
            raise self._error("expected an operator after a label")
        operator = self._take().text
        if operator in ("in", "not in"):
            return ast.In(label, self._set(), negated=operator == "not in")
        value = self._string("expected a quoted string")
        match operator:
            case "==" | "!=":
                return ast.Equal(label, value, negated=operator == "!=")
            case "contains":
                return ast.Contains(label, value)
            case "starts with":
                return ast.StartsWith(label, value)
            case _:
                return ast.EndsWith(label, value)

    def _set(self) -> tuple[str, ...]:
        if not self._is_symbol("{"):
            raise self._error("expected {")
        self._take()
        values: set[str] = set()
        while not self._is_symbol("}"):
            values.add(self._string("expected a quoted string or }"))
            if self._is_symbol(","):
                self._take()
            elif not self._is_symbol("}"):
                raise self._error("expected , or }")
        self._take()
        return tuple(sorted(values))

    def _string(self, problem: str) -> str:
        if self._peek().kind is not Kind.STRING:
            raise self._error(problem)
        return self._take().text

    def _peek(self) -> Token:
        return self._tokens[self._index]

    def _take(self) -> Token:
        token = self._tokens[self._index]
        self._index += 1
        return token

    def _is_symbol(self, text: str) -> bool:
        token = self._peek()
        return token.kind is Kind.SYMBOL and token.text == text

    def _error(self, problem: str) -> SelectorError:
        token = self._peek()
        found = "the end" if token.kind is Kind.END else repr(token.text or "()")
        return SelectorError(self._text, token.position, f"{problem}, found {found}")
