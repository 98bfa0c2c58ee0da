"""From the text of an answer to a value that can be compared.

Owns what an answer can be: a number with its unit, several values in brackets, a matrix, an
equation, a formula, or words. Refuses to compare (compare.py) and to call sympy. Invariant:
every text has exactly one reading; what nothing understands is ``Words``.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum

from rlpost.verifiers.answers.notation import commands, peeled, without_currency
from rlpost.verifiers.answers.quantity import Form, NotPlain, Quantity, TooLarge, quantity
from rlpost.verifiers.answers.units_of_measure import (
    FUNCTIONS,
    currency,
    split_formula_unit,
    split_unit,
)

_MAX_DEPTH = 6  # of brackets inside brackets that are read as values
_MAX_ITEMS = 200


class Order(Enum):
    """Whether the order of several values matters."""

    FREE = "free"  # a set, or values without brackets
    FIXED = "fixed"  # a tuple, vector or interval


@dataclass(frozen=True, kw_only=True)
class Items:
    """Several values; ``brackets`` is the pair around them, empty where there is none."""

    items: tuple["Reading", ...]
    brackets: str = ""

    @property
    def order(self) -> Order:
        return Order.FREE if self.brackets in ("", "{}") else Order.FIXED


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Rows of cells."""

    rows: tuple[tuple["Reading", ...], ...]


@dataclass(frozen=True, kw_only=True)
class Formula:
    """Mathematics that only sympy can read."""

    latex: str
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Text without mathematics, or a number too large to compare."""

    text: str


Value = Quantity | Items | Matrix | Formula | Words


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One answer: its value, and the text in one notation that it was read from.

    Example: ``x = 42`` has ``name="x"``, ``Quantity(value=42)`` as value, ``text="x = 42"``.
    """

    text: str
    value: Value
    side: str  # the text of the value alone
    name: str = ""  # what an equation says it is the value of
    is_equation: bool = False  # with a left side that is no name, such as 2x + 3y = 6
    exact: "Reading | None" = None  # of "2/3 \\approx 0.67": 2/3, when the value is its decimal


_EQUALS = re.compile(
    r"(?<![<>!=:\\])=(?!=)|\\approx(?![A-Za-z])|\\equiv(?![A-Za-z])|\\sim(?![A-Za-z])"
)
_APPROXIMATED = re.compile(r"\\approx(?![A-Za-z])")
_NAME = re.compile(
    r"(?:\\?[A-Za-z][A-Za-z ]*)(?:_(?:\{[^{}]*\}|\w))?'*(?:\s*\([A-Za-z0-9, ]*\))?|\|[A-Za-z]+\||"
    r"\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)"
)
_MATRIX = re.compile(r"\\begin\{([a-z]*matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.S)
_REALS = re.compile(r"\\mathbb\s*(?:\{\s*R\s*\}|R)")
_DESCRIBED_SET = re.compile(
    r"\\\{\s*[a-z]\s*(?:\\in\s*\\mathbb\s*(?:\{\s*R\s*\}|R)\s*)?[|:]\s*(?P<rule>[^|:]+)\\\}"
)
_GROUPED_TUPLE = re.compile(r"[(\[]\s*-?\d{1,3}(?:,-?\d{3})+\s*[)\]]")  # (12,345) is a point
_JOINER = re.compile(r"[,;]\s*(?:and|or)\b|[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_LABEL = re.compile(
    r"(?:(?:the\s+)?(?:final\s+)?(?:answer|result|value|total|sum|product|solution)s?"
    r"(?:\s*(?:is|are|:)|\s+-(?=\s))?|"
    r"approximately|about|roughly|exactly|therefore|thus|so|hence|simply|only|just|and|or|to|at)"
    r"(?![A-Za-z])\s*:?",
    re.I,
)
_LONG_RUN = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_RELATION = re.compile(r"<|>|\\(?:le|ge|ne|in|subset\w*)(?![A-Za-z])")
_SHORT_WORDS = frozenset((
    "am", "an", "as", "at", "be", "by", "do", "go", "he", "if", "in", "is", "it", "me", "my",
    "no", "of", "on", "or", "so", "to", "up", "us", "we",
))  # fmt: skip
_VARIABLES = re.compile(r"[xyz]{2,3}")


def read(text: str, *, depth: int = 0) -> Reading:
    """Return the one reading of an answer's text, which is in plain characters."""
    bare = peeled(" ".join(commands(text).split()))
    label = _LABEL.match(bare)
    if label and label.end() < len(bare) and _value_follows(bare[label.end() :]):
        bare = peeled(bare[label.end() :])
    return _read(bare, depth=depth)


def _value_follows(text: str) -> bool:
    return bool(re.match(r"\s*(?:[-+(\[{$\\.]|\d|[A-Za-z]\s*=)", text))


def _read(bare: str, *, depth: int) -> Reading:
    described = _DESCRIBED_SET.fullmatch(bare)
    if described and is_relation(described["rule"]):
        bare = peeled(described["rule"])  # {x | x > 3} is x > 3
    if _REALS.fullmatch(bare):
        bare = r"(-\infty,\infty)"
    sides = _split(_EQUALS, bare)
    if len(sides) > 1 and not _has_several(sides, bare):
        return _equation(sides, bare, depth=depth)
    return Reading(text=bare, side=bare, value=_value(bare, depth=depth))


def _has_several(sides: list[str], bare: str) -> bool:
    """Whether the text is a list of equations, such as ``x = 1, y = 2``."""
    parts = _split(_JOINER, bare)
    return len(parts) > 1 and len(sides) > 2 and all(_EQUALS.search(part) for part in parts)


def _equation(sides: list[str], bare: str, *, depth: int) -> Reading:
    left = sides[0].strip()
    named = not left or _NAME.fullmatch(left) is not None
    filled = [side for side in (sides[1:] if named else sides) if side.strip()]
    if not filled:
        return Reading(text=bare, side=bare, value=Words(text=bare))
    last = peeled(filled[-1])
    value = _value(last, depth=depth)
    plain_left = not named and _plain(left) is not None
    return Reading(
        text=bare,
        side=last,
        value=value,
        exact=_exact(filled, bare, value, depth=depth),
        name=re.sub(r"[\s\\{}]", "", left).lower() if named else "",
        is_equation=not named and not plain_left,
    )


def _exact(filled: list[str], bare: str, rounded: Value, *, depth: int) -> Reading | None:
    """Read what a decimal at the end of an equation approximates."""
    is_decimal = isinstance(rounded, Quantity) and rounded.places is not None
    if not is_decimal or len(filled) < 2 or not _APPROXIMATED.search(bare):
        return None
    before = peeled(filled[-2])
    value = _value(before, depth=depth)
    if isinstance(value, Quantity) and value.form is Form.NUMBER:
        return None
    return Reading(text=before, side=before, value=value)


def _value(bare: str, *, depth: int) -> Value:
    try:
        found = _quantity(bare)
    except TooLarge:
        return Words(text=bare)
    if found is not None:
        return found
    if depth < _MAX_DEPTH:
        several = _several(bare, depth=depth)
        if several is not None:
            return several
    latex, unit = split_formula_unit(bare)
    return Formula(latex=latex, unit=unit) if is_formula(latex) else Words(text=bare)


def _plain(text: str) -> Quantity | None:
    try:
        return quantity(text)
    except NotPlain:
        return None
    except TooLarge:
        return None


def _quantity(bare: str) -> Quantity | None:
    if not any(map(str.isdigit, bare)) or _GROUPED_TUPLE.fullmatch(bare):
        return None
    text = without_currency(bare).strip()
    try:
        return replace(quantity(text), unit=currency(bare))
    except NotPlain:
        pass
    found = split_unit(text)
    if found is None:
        return None
    body, scale, unit = found
    try:
        number = quantity(body)
    except NotPlain:
        return None
    return replace(number, value=number.value * scale, unit=unit or currency(bare))


def _several(bare: str, *, depth: int) -> Value | None:
    matrix = _MATRIX.fullmatch(bare)
    if matrix:
        return _matrix(matrix[2], depth=depth)
    if r"\pm" in bare:
        return _both_signs(bare, depth=depth)
    inner, brackets = _unbracketed(bare)
    if not inner.strip():
        return Items(items=(), brackets=brackets) if brackets == "{}" else None
    if bare == r"\emptyset":
        return Items(items=(), brackets="{}")
    parts = _items(inner, in_brackets=bool(brackets))
    if len(parts) == 1:
        # One value in brackets is that value; without brackets, nothing was split.
        return _read(peeled(parts[0]), depth=depth + 1).value if brackets else None
    if len(parts) > _MAX_ITEMS:
        return None
    readings = tuple(_read(peeled(part), depth=depth + 1) for part in parts)
    if not brackets and any(isinstance(reading.value, Words) for reading in readings):
        return None
    return Items(items=readings, brackets=brackets)


def _both_signs(bare: str, *, depth: int) -> Items | None:
    if len(re.findall(r"\\pm(?![A-Za-z])", bare)) != 1:
        return None
    plus = re.sub(r"\\pm(?![A-Za-z])\s*", "+", re.sub(r"\\mp(?![A-Za-z])\s*", "-", bare))
    minus = re.sub(r"\\pm(?![A-Za-z])\s*", "-", re.sub(r"\\mp(?![A-Za-z])\s*", "+", bare))
    readings = [_read(text.lstrip("+"), depth=depth + 1) for text in (plus, minus)]
    return Items(items=tuple(readings))


def _unbracketed(bare: str) -> tuple[str, str]:
    """Return what stands inside the brackets around all of a text, and the pair."""
    if bare.startswith(r"\{") and bare.endswith(r"\}"):
        return bare[2:-2], "{}"
    if len(bare) > 1 and bare[0] in "([" and bare[-1] in ")]":
        inner = bare[1:-1]
        if _balanced(inner):
            return inner, bare[0] + bare[-1]
    return bare, ""


def _balanced(text: str) -> bool:
    depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _items(text: str, *, in_brackets: bool) -> list[str]:
    parts = _split(_JOINER, text)
    # "1,234, 5,678": where a comma is followed by a space, one between digits groups them.
    if "," in text and re.search(r",\s", text) and re.search(r"\d,\d{3}(?!\d)", text):
        loose = _split(
            re.compile(r"[,;]\s+(?:(?:and|or)\b)?|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"), text
        )
        if all(part.strip() for part in loose):
            return loose
    parts = [part for part in parts if part.strip()]
    return parts if parts else [text]


def _split(separator: re.Pattern[str], text: str) -> list[str]:
    """Split where ``separator`` matches outside of all brackets and environments."""
    if not separator.search(text):
        return [text]
    parts, start = [], 0
    for match in separator.finditer(text):
        if _depth_at(text, match.start()) == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def _depth_at(text: str, place: int) -> int:
    before = text[:place]
    depth = sum((sign in "([{") - (sign in ")]}") for sign in before)
    return depth + before.count(r"\begin") - before.count(r"\end")


def _matrix(body: str, *, depth: int) -> Matrix | None:
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", body) if row.strip()]
    if not rows or len(rows) > _MAX_ITEMS:
        return None
    return Matrix(
        rows=tuple(
            tuple(_read(peeled(cell), depth=depth + 1) for cell in row.split("&")) for row in rows
        )
    )


def is_formula(text: str) -> bool:
    """Whether a text can be mathematics: it has some, and no words of prose."""
    if ":" in text or not _balanced(text):
        return False
    if any(sign.isalpha() and not sign.isascii() for sign in text):
        return False
    runs = _LONG_RUN.findall(re.sub(r"\\begin\{\w+\}|\\end\{\w+\}|\\mathbb", "", text))
    marked = bool(re.search(r"\d|[-+*/^=<>|!_(]|\\[A-Za-z]", text))
    for run in runs:
        if run.lower() in FUNCTIONS or _VARIABLES.fullmatch(run):
            continue
        if len(run) > 2 or run.lower() in _SHORT_WORDS or not marked:
            return False
    return marked or len(text) == 1 or bool(runs)


def is_relation(text: str) -> bool:
    """Whether a formula is an inequality or a statement of membership."""
    return bool(_RELATION.search(text))
