"""The expressions in a piece of prose, in their order.

Owns where an expression begins and ends among words. Refuses to read it (reading.py).
Invariant: a number is never cut out of a longer one, out of a word or out of an expression:
what stands together is one expression.
"""

import re

from rlpost.verifiers.answers.notation import BREAK, commands
from rlpost.verifiers.answers.quantity import NUMBER
from rlpost.verifiers.answers.units_of_measure import FUNCTIONS, is_known, split_unit

_WORDLIKE = "|".join(sorted(FUNCTIONS, key=len, reverse=True))
_TOKEN = re.compile(
    r"(?P<environment>\\begin\{([a-z]*matrix|array|cases)\}.*?\\end\{\2\})"
    r"|(?P<stop>\\\\|\n|\x1f|\.\.\.|\\(?:to|ldots|implies|iff|therefore|because|item|"
    r"[RrLl]\w*arrow)"
    r"(?![A-Za-z]))"
    r"|(?P<clock>(?<![\d.])\d+(?::\d+)+(?!\d))"
    rf"|(?P<number>(?<![A-Za-z]){NUMBER})"
    r"|(?P<command>\\[A-Za-z]+|\\[{}|])"
    rf"|(?P<function>(?<![A-Za-z\d])(?:{_WORDLIKE})(?![A-Za-z]))"
    r"|(?P<joined>(?<=[\d)}])[A-Za-z]{1,3}(?![A-Za-z\d]))"
    r"|(?P<letter>(?<![A-Za-z\d])[A-Za-z](?![A-Za-z]|\d|'[a-z]))"
    r"|(?P<word>[A-Za-z]\w*(?:'\w+)?|[^\W\d_A-Za-z]+)"
    r"|(?P<bracket>[()\[\]{}])"
    r"|(?P<sign>[-+*/^=<>|_&]|!(?=[\s]*[-+*/^=)\x1f])|%)"
    r"|(?P<comma>,)"
    r"|(?P<space>[ \t]+)"
    r"|(?P<other>.)",
    re.S,
)
_BULLET = re.compile(r"^[ \t]*[-*+•][ \t]+(?=\S)", re.M)
_SPACED_DASH = re.compile(r"(?<=[A-Za-z)\]][ \t])[-][ \t]+(?=[\d\\(.$])")
_COPULA = re.compile(r"(?:\b(?:is|are|equals|be|to|of|get|was|gives|exactly)|[=:(])\s*$", re.I)
_PARTS = frozenset(("environment", "number", "command", "function", "joined", "bracket", "sign"))
_VALUED = re.compile(r"\d|\\(?:pi|infty|sqrt|frac|emptyset|mathbb|begin|theta|alpha)|\bpi\b")
_AFTER = re.compile(r"[ \t\x1f]*(%|(?:hundred|thousand|million|billion|trillion)s?\b)", re.I)
_UNIT_AFTER = re.compile(
    r"[ \t\x1f]?(?:\^\\circ ?[CFK]?|[ \t]*[A-Za-zµ]+(?:\^\{?-?\d\}?)?"
    r"(?:[ ]?/[ ]?[A-Za-z]+(?:\^\{?-?\d\}?)?)*)"
)
# "not 18", "is more than 18", "between 17 and 18", "18 or more": the answer is not said to be 18.
_QUOTED = r"[\s\x1f*_`\"'({$]*"
_DENIED = re.compile(
    rf"(?:\b(?:not|never|cannot|neither|nor|except)|n't)(?:\s+(?:be|equal|equal to))?{_QUOTED}$"
    r"|(?:不是|不等于|不为)\s*$",
    re.I,
)
_DENIED_AFTER = re.compile(
    rf"{_QUOTED}[*_`\"')}}$]*\s+(?:(?:is|are)\s+(?:not|wrong|incorrect|false)|isn't|cannot be)\b",
    re.I,
)
_COMPARED = re.compile(
    rf"\b(?:more|less|greater|fewer|larger|smaller|higher|lower|other) than{_QUOTED}$", re.I
)
_BETWEEN = re.compile(rf"\bbetween{_QUOTED}$", re.I)
_OPEN_ENDED = re.compile(rf"{_QUOTED}(?:or|and)\s+(?:more|less|fewer|greater|above|below)\b", re.I)
_LIST_JOINER = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|;|\band\b|\bor\b)[\s\x1f]*", re.I)
_ALTERNATIVE = re.compile(r"[\s\x1f]*\bor\b[\s\x1f]*", re.I)


_WORDS_BEFORE = 40  # characters


class Expressions:
    """The expressions of a text in plain characters, first to last.

    Example: ``Expressions("Since 5 - 2 = 3, it is 3 cm.").last() == "3 cm"``
    """

    def __init__(self, text: str) -> None:
        self._text = _prepared(text)
        self._spans = _spans(self._text)

    def __len__(self) -> int:
        return len(self._spans)

    def last(self) -> str | None:
        """Return the last expression, with its unit, that the text does not deny.

        None when it is only a bound: "more than 18" and "18 or more" do not say what is.
        """
        place = len(self) - 1
        while place >= 0 and self._is_denied(place):
            place -= 1
        if place < 0 or self._is_bound(place):
            return None
        return _with_unit(self._text, *self._spans[place])

    def _is_denied(self, index: int) -> bool:
        return bool(
            _DENIED.search(self._before(index))
            or _DENIED_AFTER.match(self._text, self._spans[index][1])
        )

    def _is_bound(self, index: int) -> bool:
        is_list = index > 0 and _LIST_JOINER.fullmatch(self._between(index - 1))
        return bool(
            _COMPARED.search(self._before(index))
            or _OPEN_ENDED.match(self._text, self._spans[index][1])
            or (is_list and _BETWEEN.search(self._before(index - 1)))
        )

    def _before(self, index: int) -> str:
        """Return the few words that stand before an expression."""
        start = self._spans[index][0]
        return self._text[max(0, start - _WORDS_BEFORE) : start]

    def leading(self) -> str | None:
        """Return the expression with which the text begins; None when a word comes before."""
        if not self._spans:
            return None
        before = self._text[: self._spans[0][0]].strip(" \t\n\x1f*_`\"'([{|:")
        if before not in ("", "+") or self._is_bound(0):
            return None
        return _with_unit(self._text, *self._spans[0])

    def last_list(self) -> str | None:
        """Return the last expressions that commas, "and" or "or" join, as one text."""
        if not self._spans:
            return None
        first = len(self._spans) - 1
        while first and _LIST_JOINER.fullmatch(self._between(first - 1)):
            first -= 1
        return self._text[self._spans[first][0] : self._spans[-1][1]].replace(BREAK, " ")

    def ends_with_alternative(self) -> bool:
        """Whether the last expression is one of two that "or" joins."""
        return len(self) > 1 and _ALTERNATIVE.fullmatch(self._between(len(self) - 2)) is not None

    def _between(self, index: int) -> str:
        """Return what stands between an expression and the next."""
        return self._text[self._spans[index][1] : self._spans[index + 1][0]]


def _prepared(text: str) -> str:
    text = commands(text, boundary=BREAK)
    if len(_BULLET.findall(text)) > 1 or "\n" in text.strip():
        text = _BULLET.sub("", text)
    return _SPACED_DASH.sub(lambda m: m[0] if _COPULA.search(text[: m.start()]) else ", ", text)


def _spans(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start, end, depth = -1, -1, 0
    previous = ""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "space":
            continue
        joins = _joins(text, match, kind, previous=previous, end=end, depth=depth)
        if start >= 0 and not joins:
            spans.append((start, end))
            start, depth = -1, 0
        if kind in _PARTS or kind in ("letter", "clock") or (kind == "comma" and joins):
            start = match.start() if start < 0 else start
            end = match.end()
            if kind == "bracket":
                depth += 1 if match[0] in "([{" else -1
        previous = kind if start >= 0 else ""
    if start >= 0:
        spans.append((start, end))
    trimmed = (_trimmed(text, *span) for span in spans)
    return [span for span in trimmed if span and _VALUED.search(text[span[0] : span[1]])]


def _joins(
    text: str, match: re.Match[str], kind: str, *, previous: str, end: int, depth: int
) -> bool:
    """Whether a token belongs to the expression that is open."""
    if not previous:
        return False
    spaced = match.start() > end
    if kind == "comma":
        following = text[match.end() : match.end() + 1]
        return depth > 0 or (following.isdigit() and text[end - 1].isdigit())
    if kind in ("letter", "joined", "function") and spaced:
        return previous in ("sign", "bracket", "command", "comma")
    if kind == "number" and spaced and previous == "number" and text[end - 1] == ".":
        return False  # the point ends a sentence
    if kind == "number" and spaced:
        return previous in ("sign", "bracket", "command", "comma", "number", "function")
    if kind == "sign" and match[0] == "-" and previous == "letter" and not spaced:
        return True
    return kind in _PARTS


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Cut what no expression begins or ends with, and brackets without their partner."""
    while True:
        before = (start, end)
        piece = text[start:end]
        lead = re.match(r"[\s*/^=<>|_&%!,)\]}+]+|\\[}]|-(?=\s*-)", piece)
        if lead and not piece.startswith("|"):
            start += lead.end()
        tail = re.search(r"(?:[\s*/^=<>_&,(\[+-]|(?<!\\)\{)+$", text[start:end])
        if tail:
            end = start + tail.start()
        start, end = _balanced(text, start, end)
        if start >= end:
            return None
        if (start, end) == before:
            return start, end


def _balanced(text: str, start: int, end: int) -> tuple[int, int]:
    """Keep the last part in which every bracket has its partner.

    An open brace belongs to a command that was cut off: nothing is taken out of it.
    """
    open_places = []
    for place in range(start, end):
        if text[place] in "([{":
            open_places.append(place)
        elif text[place] in ")]}":
            if not open_places:
                return (start, place) if place == end - 1 else (place + 1, end)
            open_places.pop()
    if not open_places or any(text[place] == "{" for place in open_places):
        return start, end
    return open_places[0] + 1, end


def _with_unit(text: str, start: int, end: int) -> str:
    piece = text[start:end]
    if piece[-1:].isdigit() or piece[-1:] in ")}":
        after = _AFTER.match(text, end)
        if after:
            piece += " " + after[1]
            end = after.end()
        unit = _UNIT_AFTER.match(text, end)
        name = unit[0].strip(" \t\x1f") if unit else ""
        if is_known(name) and split_unit(f"1 {name}"):
            piece += " " + name
    return piece.replace(BREAK, " ")
