"""Are two values equal, and is a response's answer the gold?

Owns the rules of equality between the kinds of values, and what is no answer because it only
repeats the computation. Refuses to find the answer (find.py) and to read it (reading.py).
Invariant: a gold that repeats itself is right, whatever it is.
"""

import functools
import re
from dataclasses import dataclass

from rlpost.verifiers.answers import formula
from rlpost.verifiers.answers.expressions import Expressions
from rlpost.verifiers.answers.find import Origin, Part, answer_part, prose_part
from rlpost.verifiers.answers.notation import characters, commands, peeled
from rlpost.verifiers.answers.quantity import Form, Quantity, same_number
from rlpost.verifiers.answers.reading import (
    Formula,
    Items,
    Matrix,
    Order,
    Reading,
    Words,
    is_relation,
    read,
)
from rlpost.verifiers.answers.units_of_measure import contradict, differ
from rlpost.verifiers.answers.wording import Shape, says, shape_of, spelled_alike

_MAX_WHOLE = 400  # characters of prose that is tried as one expression
_MAX_MARKED = 2000  # characters of a marked answer that is read
_TAIL = 1000  # characters at the end of a response in which its last expression is looked for
_UNION = re.compile(r"\\cup(?![A-Za-z])")
_MEMBER = re.compile(r"\s*[a-z]\s*\\in(?![A-Za-z])\s*")
NOTHING = "the response holds no answer"
NO_EXPRESSION = "no mathematical expression in the answer"
UNWORKED = "the computation is stated, not its result"


@dataclass(frozen=True, kw_only=True)
class Gold:
    """A reference answer, read once."""

    part: Part | None  # None: the text marks an answer and leaves it empty
    text: str  # the part that is the answer, in plain characters
    shape: Shape | None  # None: a value
    reading: Reading


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Whether a response is right, and why not where that is worth saying."""

    right: bool
    reason: str = ""


@functools.lru_cache(maxsize=4096)
def read_gold(text: str) -> Gold:
    """Read a reference answer; a worked solution counts as what it marks as its answer."""
    plain = characters(text)
    part = answer_part(plain)
    answer = plain if part is None else part.text.strip()
    if part is not None and part.origin is Origin.PHRASE:
        answer = _first_sentence(answer)
    shape = shape_of(commands(answer))
    reading = read(answer)
    if shape is None and isinstance(reading.value, Words):
        shape = Shape.WORDS
    return Gold(part=part, text=answer, shape=shape, reading=reading)


def judge(gold: Gold, response: str) -> Outcome:
    """Whether the answer of ``response`` is the gold."""
    part = answer_part(characters(response))
    if part is None:
        return Outcome(right=False, reason=NOTHING)
    if part == gold.part or _same_text(part.text, gold.text):
        return Outcome(right=True)
    if gold.shape is not None:
        return Outcome(right=says(part, gold.text, gold.shape))
    answer = _answer(part, gold)
    if answer is None:
        return Outcome(right=False, reason=NO_EXPRESSION)
    if not same(gold.reading, answer):
        if answer.exact is None or not same(gold.reading, answer.exact):
            return Outcome(right=False)
        answer = answer.exact
    if is_unworked(gold.reading, answer):
        return Outcome(right=False, reason=UNWORKED)
    return Outcome(right=True)


def same(gold: Reading, answer: Reading) -> bool:
    """Whether two readings are equal by value."""
    if _same_text(gold.text, answer.text):
        return True
    if _is_variable(gold.name) and _is_variable(answer.name) and gold.name != answer.name:
        return False
    if gold.is_equation or (answer.is_equation and gold.name and isinstance(gold.value, Formula)):
        stated = answer.is_equation or bool(answer.name)
        return stated and formula.same_formula(gold.text, answer.text)
    return _same_value(gold, answer)


def is_unworked(gold: Reading, answer: Reading) -> bool:
    """Whether an answer states the computation that was asked for instead of its result.

    A sum or product of numbers is no result; one number over another is none where the gold
    is an integer. A gold that is written as a computation allows it.
    """
    right, given = gold.value, answer.value
    if isinstance(right, Items) and isinstance(given, Items):
        return any(
            is_unworked(gold_item, item)
            for gold_item, item in zip(right.items, given.items, strict=False)
        )
    if isinstance(right, Matrix) and isinstance(given, Matrix):
        rows = zip(right.rows, given.rows, strict=False)
        return any(any(map(is_unworked, *cells)) for cells in rows)
    if not isinstance(right, Quantity) or right.form is Form.WORK:
        return False
    if isinstance(given, Formula):
        return formula.is_computation(given.latex)
    if not isinstance(given, Quantity):
        return False
    if given.form is Form.FRACTION:
        return right.value.denominator == 1 and right.form is not Form.FRACTION
    return given.form is Form.WORK


def _same_value(gold: Reading, answer: Reading) -> bool:
    right, given = gold.value, answer.value
    if isinstance(right, Words) or isinstance(given, Words):
        return spelled_alike(gold.side, answer.side)
    if isinstance(right, Quantity) and isinstance(given, Quantity):
        return _same_quantity(right, given)
    if isinstance(right, Items) and isinstance(given, Items):
        return _same_items(right, given)
    if isinstance(right, Matrix) and isinstance(given, Matrix):
        return len(right.rows) == len(given.rows) and all(
            len(a) == len(b) and all(map(same, a, b))
            for a, b in zip(right.rows, given.rows, strict=True)
        )
    if isinstance(right, Quantity) and isinstance(given, Formula):
        if right.unit and gold.side.replace(" ", "") == given.latex.replace(" ", ""):
            return True  # "5 m" written as "5m"
        return formula.same_as_number(right, given.latex)
    if isinstance(right, Formula) and isinstance(given, Quantity):
        return formula.same_as_number(given, right.latex)
    if isinstance(right, Formula) and isinstance(given, Formula):
        if contradict(right.unit, given.unit):
            return False
        return formula.same_formula(right.latex, given.latex)
    if isinstance(right, Formula) and isinstance(given, Items) and _is_union(right, of=given):
        return _same_items(_union(right), given)
    if isinstance(right, Items) and isinstance(given, Formula) and _is_union(given, of=right):
        return _same_items(right, _union(given))
    # An interval and an inequality, or a set and the formula that describes it.
    described = [each.latex for each in (right, given) if isinstance(each, Formula)]
    if any(is_relation(latex) or "\\cup" in latex for latex in described):
        return formula.same_formula(gold.side, answer.side)
    return False


def _is_union(formula: Formula, *, of: Items) -> bool:
    """Whether inequalities that "or" joins may say the same as a union of intervals."""
    are_relations = all(
        isinstance(item.value, Formula) and is_relation(item.value.latex) for item in of.items
    )
    return bool(_UNION.search(formula.latex)) and not of.brackets and are_relations


def _union(formula: Formula) -> Items:
    sets = _MEMBER.sub("", formula.latex)
    return Items(items=tuple(read(part) for part in _UNION.split(sets)))


def _same_quantity(gold: Quantity, answer: Quantity) -> bool:
    if contradict(gold.unit, answer.unit):
        return False
    if same_number(gold, answer):
        return True
    if gold.percent == answer.percent:
        return False
    # "What percent ...?" is answered with 50 as well as with 50%.
    bare, percent = (answer, gold) if gold.percent else (gold, answer)
    return bare.value == percent.value * 100 and abs(bare.value) >= 1


def _same_items(gold: Items, answer: Items) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    if gold.brackets and answer.brackets and gold.brackets != answer.brackets:
        return False
    if Order.FIXED in (gold.order, answer.order) or _are_places(gold, answer):
        return all(map(_same_item, gold.items, answer.items))
    left = list(answer.items)
    for item in gold.items:
        match = next((place for place, other in enumerate(left) if _same_item(item, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _are_places(gold: Items, answer: Items) -> bool:
    """Whether only the order says which of several variables a value belongs to."""
    names = {item.name for item in gold.items}
    return len(names) > 1 and not any(item.name for item in answer.items)


def _same_item(gold: Reading, answer: Reading) -> bool:
    """As ``same``; the words behind several numbers tell them apart."""
    right, given = gold.value, answer.value
    if (
        isinstance(right, Quantity)
        and isinstance(given, Quantity)
        and differ(right.unit, given.unit)
    ):
        return False
    return same(gold, answer)


def _answer(part: Part, gold: Gold) -> Reading | None:
    """The reading of the one expression in a part that is its answer."""
    if part.origin is Origin.TAG:
        whole = _whole(part.text)
        if whole is not None:
            return whole
        part = prose_part(part.text) or part
    text = part.text
    if part.origin in (Origin.BOX, Origin.HASHES):
        if len(text) > _MAX_MARKED:
            return None
        whole = read(text)
        if not isinstance(whole.value, Words):
            return whole
        found = Expressions(text)
        return _read_if(found.last()) if len(found) == 1 else None
    if part.origin is Origin.PHRASE:
        return _announced(text) or _last(text, gold)
    return _whole(text) or _whole(_last_line(text)) or _last(text, gold)


def _announced(text: str) -> Reading | None:
    """What directly follows the words "the answer is"."""
    sentence = _whole(_first_sentence(text))
    if sentence is not None:
        return sentence
    return _read_if(Expressions(text[:_TAIL]).leading())


def _last(text: str, gold: Gold) -> Reading | None:
    found = Expressions(text[-_TAIL:])
    if isinstance(gold.reading.value, Items) or found.ends_with_alternative():
        return _read_if(found.last_list())
    return _read_if(found.last())


def _read_if(text: str | None) -> Reading | None:
    return None if text is None else read(text)


def _whole(text: str) -> Reading | None:
    """All of a short text as one answer, None when it has words around its mathematics."""
    text = text.strip()
    if not text or len(text) > _MAX_WHOLE or "\n\n" in text:
        return None
    reading = read(_without_exclamation(text))
    return None if isinstance(reading.value, Words) else reading


def _without_exclamation(text: str) -> str:
    """In prose, "It is 3!" is no factorial."""
    bare = text.rstrip(" \n*_`\"'")
    return bare[:-1] if bare.endswith("!") and not bare.endswith("!!") else text


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _first_sentence(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip(" *_")), "")
    for place, sign in enumerate(line):
        ends = sign in "。！？" or (sign in ".!?" and line[place + 1 : place + 2] in ("", " ", "*"))
        if ends and (place == 0 or not line[place - 1].isalpha() or _ends_word(line, place)):
            return line[:place]
    return line


def _ends_word(line: str, place: int) -> bool:
    """Whether a point ends a sentence, and not an abbreviation such as "a.m."."""
    return place < 2 or line[place - 2] not in ". "


def _is_variable(name: str) -> bool:
    return len(name.partition("_")[0]) == 1


def _same_text(first: str, second: str) -> bool:
    """Whether two texts are spelled the same; long ones must be so to the letter."""
    if max(len(first), len(second)) > _MAX_MARKED:
        return first.strip() == second.strip()
    return _squeezed(first) == _squeezed(second)


@functools.lru_cache(maxsize=1024)
def _squeezed(text: str) -> str:
    """The text without the white space that separates no two words or numbers."""
    return re.sub(r"(?<!\w) | (?!\w)", "", " ".join(peeled(commands(text)).split()))
