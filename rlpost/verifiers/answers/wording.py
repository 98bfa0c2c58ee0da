"""Answers that are text: words, choices, times, dates, ratios and based numerals.

Owns which golds are such text, how it is spelled for a comparison, and where it stands in a
response. Refuses formulas. Invariant: two texts are equal when they spell the same after
normalisation; nothing here computes.
"""

import re
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise

from rlpost.verifiers.answers.find import Origin, Part
from rlpost.verifiers.answers.notation import commands, peeled


class Shape(Enum):
    """What kind of text a gold is."""

    TIME = "time"
    DATE = "date"
    RATIO = "ratio"
    BASED = "based"
    CHOICE = "choice"
    WORDS = "words"


_MONTHS = {
    name[:3]: number
    for number, name in enumerate(
        ("january", "february", "march", "april", "may", "june", "july", "august", "september",
         "october", "november", "december"), start=1,
    )
}  # fmt: skip
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_BASES = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16",
}  # fmt: skip
_PATTERNS = {
    Shape.TIME: r"(?<![\d:])\d{1,2}(?::[0-5]\d){1,2}(?![\d:])(?:\s*[ap]\.?\s?m\b\.?)?"
    r"|(?<![\d:])\d{1,2}\s*[ap]\.?m\b\.?",
    Shape.DATE: r"(?<![\d/-])(?:\d{4}([-/])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4})(?![\d/-])"
    rf"|{_MONTH}\s+\d{{1,2}}(?:\s*,?\s*\d{{4}})?(?!\d)"
    rf"|\d{{1,2}}\s+{_MONTH}(?:\s*,?\s*\d{{4}})?(?!\d)",
    Shape.RATIO: r"(?<![\d:.])\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+(?![\d:])",
    Shape.BASED: r"\(?[0-9a-f]+(?:\.[0-9a-f]+)?\)?\s*_\s*"
    r"(?:\{\s*\(?\s*(?:\d+|[a-z]+)\s*\)?\s*\}|\d+)"
    r"|(?<!\w)[0-9a-f]*\d[0-9a-f]*\s*\(?\s*(?:in\s+)?base[\s-]*(?:\d+|[a-z]+)\s*\)?",
}
_SHAPES = {shape: re.compile(pattern, re.IGNORECASE) for shape, pattern in _PATTERNS.items()}
_CHOICE_GOLD = re.compile(
    r"(?:(?:option|choice|answer)\s*:?\s*)?[(\[]?\s*([A-Z])\s*[)\]]?[.:]?", re.I
)
_LETTER = re.compile(
    r"(?<![A-Za-z\d\\'])(?:\(\s*([A-Za-z])\s*\)|([A-Z])"
    r"(?=\s*(?:[.):,;]|$|\n|\s(?:because|since|as)\b|\s-\s+\w"
    r"|\s(?:is|was)\s+(?:the\s+)?(?:correct|right|best|answer)\b)))"
)
_LEADING_LETTER = re.compile(
    r"(?:option|choice|answer)?\s*[(\[]?\s*([A-Z])\s*(?:[)\].:,;]|$|\s(?:because|since|as|is)\b|\s+[-/]\s)",
    re.I,
)
_DENIED_LETTER = re.compile(
    r"(?:\b(?:not|never|cannot|neither|nor|except)|n't)(?:\s+(?:be|option|choice))?[\s*_(\[\"']*$",
    re.I,
)
_LETTER_IS_DENIED = re.compile(
    r"[)\]*_.\s\"']*(?:is|are)\s+(?:not|wrong|incorrect|false|ruled)\b|"
    r"[)\]*_.\s\"']*(?:isn't|cannot)\b",
    re.I,
)
_SEVERAL_LETTERS = re.compile(
    r"(?:either\s+)?[(\[]?[A-Za-z][)\]]?\s*(?:[,;/&]|\bor\b|\band\b)\s*[(\[]?[A-Za-z]\b(?!')"
)
_ALTERNATIVE = re.compile(r"\s*(?:,?\s*or|/|,)\s*", re.IGNORECASE)
_EDGES = " \t\n.,;:!?\"'`*_()[]{}$\\" + "\u3002\uff0e"
_SAID = re.compile(
    r"\b(?:is|are|was|were|be|called|namely)\b|\b(?:it|that|this|he|she)'s\b|[:=]|は|是|為|为",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?。！？;])(?<!\b[a-zA-Z]\.)\s*(?=\s|$|[^\x00-\x7f])")
_REASON = r"\s*(?:[,.;:(\n-]|\bbecause\b|\bsince\b|\bas\b)"


def shape_of(gold: str) -> Shape | None:
    """Return the kind of text that a gold in one notation is, if it has a kind's shape.

    Words have no shape: a gold is words when nothing else can read it.
    """
    text = peeled(gold)
    for shape, pattern in _SHAPES.items():
        if pattern.fullmatch(text):
            return shape
    match = _CHOICE_GOLD.fullmatch(text)
    if match and match[1].isupper():
        return Shape.CHOICE
    return None


def says(part: Part, gold: str, shape: Shape) -> bool:
    """Whether the answer of a response is the text ``gold``."""
    right = _spelled(gold, shape)
    return any(_spelled(text, shape) == right for text in _candidates(part, gold, shape))


def spelled_alike(first: str, second: str) -> bool:
    """Whether two texts are the same words."""
    return _spelled(first, Shape.WORDS) == _spelled(second, Shape.WORDS)


def _candidates(part: Part, gold: str, shape: Shape) -> Iterator[str]:
    text = commands(part.text)
    yield text
    if shape is Shape.CHOICE:
        yield from _choices(text, part.origin)
    elif shape is not Shape.WORDS:
        yield from _shaped(text, shape, part.origin)
    elif part.origin is not Origin.BOX:
        yield from _worded(text, gold, part.origin)


def _shaped(text: str, shape: Shape, origin: Origin) -> Iterator[str]:
    found = list(_SHAPES[shape].finditer(text))
    if not found or (origin is Origin.BOX and len(found) > 1):
        return
    chosen = 0 if origin is Origin.PHRASE else len(found) - 1
    for first, second in pairwise(found[max(0, chosen - 1) : chosen + 2]):
        if _ALTERNATIVE.fullmatch(text[first.end() : second.start()]):
            return  # "3:30 or 3:31" is no answer
    yield found[chosen][0]


def _choices(text: str, origin: Origin) -> Iterator[str]:
    text = text.strip(" \n*_")
    if _SEVERAL_LETTERS.match(text):
        return
    match = _LEADING_LETTER.match(text)
    is_denied = match is not None and _LETTER_IS_DENIED.match(text, match.end(1)) is not None
    if match and match[1].isupper() and not is_denied:
        yield match[1]
    elif origin is not Origin.BOX:
        letters = [
            m[1] or m[2]
            for m in _LETTER.finditer(text)
            if not _DENIED_LETTER.search(text[: m.start()])
            and not _LETTER_IS_DENIED.match(text, m.end(1) if m[1] else m.end(2))
        ]
        yield from letters[-1:]


def _worded(text: str, gold: str, origin: Origin) -> Iterator[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return
    if origin in (Origin.PHRASE, Origin.TAG):
        first = lines[0] if origin is Origin.PHRASE else text
        start = re.match(
            rf"[\s*_\"'`(]*({re.escape(gold.strip())})[*_\"'`)]*{_REASON}", first, re.I
        )
        if start:
            yield start[1]
        sentences = _sentences(lines[0])
        yield sentences[0]
        if origin is Origin.PHRASE:
            return
    yield lines[-1]
    sentence = _sentences(lines[-1])[-1]
    yield sentence
    yield _SAID.split(sentence)[-1]


def _sentences(line: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(line) if part.strip()] or [line]


def _spelled(text: str, shape: Shape) -> str:
    text = " ".join(peeled(commands(text)).split()).casefold()
    if shape is Shape.TIME:
        return _time(text)
    if shape is Shape.DATE:
        return _date(text)
    if shape is Shape.RATIO:
        return _without_zeros(re.sub(r"\s", "", text))
    if shape is Shape.BASED:
        return _based(text)
    if shape is Shape.CHOICE:
        match = _CHOICE_GOLD.fullmatch(text)
        return match[1].casefold() if match else text
    bare = text.strip(_EDGES)
    bare = re.sub(r"\s*([,;:/-])\s*", r"\1", bare)
    return re.sub(r"^(?:the|a|an) (?=\S)", "", bare) or text


def _time(text: str) -> str:
    match = re.fullmatch(r"([\d:]+)\s*([ap]?)[\s.]*m?[\s.]*", text)
    if match is None:
        return text
    clock, half = match.groups()
    return f"{_without_zeros(clock if ':' in clock else clock + ':00')}{half}"


def _date(text: str) -> str:
    month = re.search(_MONTH, text)
    if month is None:
        year_first = re.fullmatch(r"(\d{4})[-/](\d+)[-/](\d+)", text)
        if year_first:
            return "-".join(str(int(number)) for number in year_first.groups())
        return _without_zeros(re.sub(r"\s", "", text))
    numbers = [str(int(number)) for number in re.findall(r"\d+", text)]
    year = [number for number in numbers if len(number) == 4]
    day = [number for number in numbers if len(number) < 4]
    return "-".join([*year, str(_MONTHS[month[0][:3]]), *day])


def _based(text: str) -> str:
    match = re.search(r"([0-9a-f]+(?:\.[0-9a-f]+)?)\W*(?:_|base|in base)[\W_]*(\w+)", text)
    if match is None:
        return text
    digits = match[1].lstrip("0") or "0"
    return f"{digits}_{_BASES.get(match[2], match[2])}"


def _without_zeros(text: str) -> str:
    return re.sub(r"(?<!\d)(?<!\d\.)0+(?=\d)", "", text)
