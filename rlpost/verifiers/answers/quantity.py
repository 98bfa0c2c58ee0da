"""Plain numbers and the arithmetic of plain numbers, exactly and without sympy.

Owns the reading of texts such as ``-3``, ``1,234.5``, ``6.02 * 10^{23}``, ``2 1/3``, ``50%``,
``\\frac{72}{2}`` or ``4(10-1)``: the value, and the form it was written in, because a sum or
product that nobody has worked out is no answer. Refuses variables, functions and irrational
numbers. Invariants: values are exact fractions; no text makes a number of more than
``MAX_BITS`` bits.
"""

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from math import factorial, isqrt

MAX_BITS = 100_000  # of a numerator or denominator: 30,000 decimal digits
_MAX_LITERAL = 4000  # digits that Python converts without complaint
_MAX_DEPTH = 40  # of brackets
_MAX_FACTORIAL = 1000
_MIN_DIGITS = 6  # significant, of a decimal that may stand for the value it was rounded from
_FLOAT_DIGITS = 15  # of a decimal that a program printed: 0.30000000000000004 is 0.3
_FLOAT_NOISE = Fraction(1, 10**14)  # relative

LITERAL = (
    r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!,?\d)|"
    r"\d{1,3}(?:[ '\u202f]\d{3})+(?![ ']?\d|\s*/)|\d+)(?:\.\d+|\.(?!\d))?|\.\d+"
)
REPEATING = r"\d*\.\d*\\(?:overline|bar)\s*(?:\{\s*\d+\s*\}|\d)"
NUMBER = rf"(?:{LITERAL})(?:[eE][-+]?\d+(?![\d.]*[A-Za-z]))?"
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>{REPEATING}|{NUMBER})|(?P<sign>\\frac|\\sqrt|\bsqrt\b|[-+*/^!%(){{}}\[\]]))"
)


class NotPlain(Exception):
    """The text is no arithmetic of plain numbers."""


class TooLarge(Exception):
    """The text is one, but its value has more digits than anybody compares."""


class Form(Enum):
    """How a value was written."""

    NUMBER = "number"  # 36, -3.5, 2 1/3, 6.02 * 10^{23}, 50%
    FRACTION = "fraction"  # one number over another, reduced or not
    POWER = "power"  # a power, root or factorial of a number
    WORK = "work"  # a sum, product or longer computation that nobody has worked out


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A rational number as it was written.

    Example: ``Quantity(value=Fraction(5, 2), places=1, digits=2)`` is ``2.5``.
    """

    value: Fraction
    form: Form = Form.NUMBER
    places: int | None = None  # decimal places written; None: an integer or fraction, exact
    digits: int = 0  # significant digits written
    percent: bool = False  # the value is a hundredth of the number before the sign
    unit: str = ""
    literal: bool = False  # digits only: may be the whole part of a mixed number


def quantity(text: str) -> Quantity:
    """Return the number that all of ``text``, in one notation, stands for.

    Raises:
        NotPlain: it is something else.
        TooLarge: the value is beyond ``MAX_BITS``.
    """
    return _Parser(text).whole()


def same_number(a: Quantity, b: Quantity) -> bool:
    """Whether two numbers are equal: exactly, or one is the other, rounded to enough digits.

    A number written as a decimal with six significant digits or more stands for what rounds
    to it, so 0.333333 is 1/3 and 0.333 is not. Integers and fractions are exact.
    """
    if a.value == b.value:
        return True
    if a.places is None and b.places is None:
        return False
    distance = abs(a.value - b.value)
    are_integers = a.value.denominator == b.value.denominator == 1  # which a program prints exactly
    noise = Fraction(0) if are_integers else _FLOAT_NOISE * abs(b.value)
    if max(a.digits, b.digits) >= _FLOAT_DIGITS and distance <= noise:
        return True
    if a.places is not None and b.places is not None:
        coarse = a if a.places < b.places else b
    else:
        coarse = a if a.places is not None else b
    assert coarse.places is not None
    if coarse.digits < _MIN_DIGITS or coarse.value == 0:
        return False
    return distance * 2 <= Fraction(10) ** -coarse.places


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._place = 0
        self._depth = 0

    def whole(self) -> Quantity:
        signs = [text for text, is_number in self._tokens if not is_number]
        if signs.count("%") == 1 and self._tokens[-1][0] == "%":
            del self._tokens[-1]  # of all that stands before it: 33 1/3%, 100/3%
            return _hundredth(self.whole())
        found = self._sum()
        if self._place != len(self._tokens):
            raise NotPlain
        return found

    def _next(self) -> str:
        return self._tokens[self._place][0] if self._place < len(self._tokens) else ""

    def _take(self, sign: str) -> bool:
        if self._next() != sign:
            return False
        self._place += 1
        return True

    def _sum(self) -> Quantity:
        total = self._product()
        while self._next() in ("+", "-"):
            minus = self._take("-") or not self._take("+")
            term = self._product()
            total = _worked(total.value - term.value if minus else total.value + term.value)
        return total

    def _product(self) -> Quantity:
        total = self._signed()
        while True:
            if self._take("*"):
                total = _times(total, self._signed())
            elif self._take("/"):
                total = _over(total, self._signed())
            elif self._next() in ("(", "{", "[", "\\frac", "\\sqrt"):
                total = self._beside(total)
            elif self._is_number() and total.literal:
                total = self._mixed(total)
            else:
                return total

    def _beside(self, left: Quantity) -> Quantity:
        """What stands beside a number without a sign: ``1\\frac{1}{2}``, else a factor."""
        is_fraction = self._next() == "\\frac"
        right = self._power()
        if is_fraction and left.literal and _is_proper(right):
            return _mixed(left, right)
        return _times(left, right, explicit=False)

    def _mixed(self, left: Quantity) -> Quantity:
        """``2 1/3``, where the next token is the second number."""
        right = self._power()
        if not self._take("/"):
            raise NotPlain
        right = _over(right, self._power())
        if not _is_proper(right):
            raise NotPlain
        return _mixed(left, right)

    def _signed(self) -> Quantity:
        if self._take("+"):
            return self._signed()
        if self._take("-"):
            found = self._signed()
            return replace(found, value=-found.value)
        return self._power()

    def _power(self) -> Quantity:
        base = self._atom()
        while True:
            if self._take("!"):
                base = _factorial(base)
            elif self._take("%"):
                base = _hundredth(base)
            elif self._take("^"):
                base = _raised(base, self._exponent())
            else:
                return base

    def _exponent(self) -> Quantity:
        if self._take("-"):
            found = self._exponent()
            return replace(found, value=-found.value)
        self._take("+")
        base = self._atom()
        return _raised(base, self._exponent()) if self._take("^") else base

    def _atom(self) -> Quantity:
        if self._is_number():
            self._place += 1
            return _literal(self._tokens[self._place - 1][0])
        for opening, closing in (("(", ")"), ("{", "}"), ("[", "]")):
            if self._take(opening):
                return self._inside(closing)
        if self._take("\\frac"):
            top = self._group()
            return _over(top, self._group())
        if self._take("\\sqrt") or self._take("sqrt"):
            return _root(self._atom())
        raise NotPlain

    def _group(self) -> Quantity:
        if not self._take("{"):
            raise NotPlain
        return self._inside("}")

    def _inside(self, closing: str) -> Quantity:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotPlain
        found = self._sum()
        self._depth -= 1
        if not self._take(closing):
            raise NotPlain
        return replace(found, literal=False)

    def _is_number(self) -> bool:
        return self._place < len(self._tokens) and self._tokens[self._place][1]


def _tokens(text: str) -> list[tuple[str, bool]]:
    tokens = []
    place, text = 0, text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise NotPlain
        tokens.append((match["number"] or match["sign"], match["number"] is not None))
        place = match.end()
    return tokens


def _literal(text: str) -> Quantity:
    if "\\" in text:
        return _repeating(text)
    written, _, exponent = re.sub("[, '\u202f]", "", text).lower().partition("e")
    if len(written) > _MAX_LITERAL:
        raise TooLarge
    power = int(exponent[:9] or 0) if exponent.lstrip("+-") else 0
    if abs(power) > MAX_BITS // 4 or len(exponent) > 9:
        raise TooLarge
    whole, point, decimals = written.partition(".")
    digits = len((whole + decimals).lstrip("0"))
    has_places = bool(decimals) or bool(exponent)
    value = Fraction(Decimal(written)) * Fraction(10) ** power
    return Quantity(
        value=value,
        places=len(decimals) - power if has_places else None,
        digits=digits,
        literal=not point and not exponent,
    )


def _repeating(text: str) -> Quantity:
    """``0.1\\overline{6}``: the digits under the line, over as many nines, shifted."""
    written, _, period = text.partition("\\")
    period = re.sub(r"\D", "", period)
    whole, _, decimals = written.partition(".")
    if len(written) + len(period) > _MAX_LITERAL:
        raise TooLarge
    shift = 10 ** len(decimals)
    repeated = Fraction(int(period), (10 ** len(period) - 1) * shift)
    return Quantity(value=_bounded(Fraction(int(whole + decimals or 0), shift) + repeated))


def _worked(value: Fraction) -> Quantity:
    return Quantity(value=_bounded(value), form=Form.WORK)


def _times(left: Quantity, right: Quantity, *, explicit: bool = True) -> Quantity:
    value = _bounded(left.value * right.value)
    if explicit and left.form is Form.NUMBER and _is_power_of_ten(right):
        power = _decimal_exponent(right.value)  # scientific notation
        places = (left.places or 0) - power
        return Quantity(value=value, places=places, digits=left.digits)
    return Quantity(value=value, form=Form.WORK)


def _over(top: Quantity, bottom: Quantity) -> Quantity:
    if bottom.value == 0:
        raise NotPlain
    simple = all(each.form in (Form.NUMBER, Form.POWER) for each in (top, bottom))
    value = _bounded(top.value / bottom.value)
    return Quantity(value=value, form=Form.FRACTION if simple else Form.WORK)


def _mixed(whole: Quantity, part: Quantity) -> Quantity:
    value = whole.value - part.value if whole.value < 0 else whole.value + part.value
    return Quantity(value=value)


def _is_proper(part: Quantity) -> bool:
    return part.form is Form.FRACTION and 0 < part.value < 1 and part.places is None


def _raised(base: Quantity, exponent: Quantity) -> Quantity:
    form = Form.WORK if Form.WORK in (base.form, exponent.form) else Form.POWER
    if exponent.value.denominator == 2:
        base = _root(base)
        exponent = replace(exponent, value=exponent.value * 2)
    if exponent.value.denominator != 1 or (base.value == 0 and exponent.value <= 0):
        raise NotPlain
    power = int(exponent.value)
    if base.value in (0, 1, -1):
        return Quantity(value=base.value ** (power % 2 or 2), form=form)
    bits = max(base.value.numerator.bit_length(), base.value.denominator.bit_length())
    if abs(power) * bits > MAX_BITS:
        raise TooLarge
    return Quantity(value=base.value**power, form=form)


def _root(base: Quantity) -> Quantity:
    top, bottom = base.value.numerator, base.value.denominator
    if top < 0 or isqrt(top) ** 2 != top or isqrt(bottom) ** 2 != bottom:
        raise NotPlain
    form = Form.WORK if base.form is Form.WORK else Form.POWER
    return Quantity(value=Fraction(isqrt(top), isqrt(bottom)), form=form)


def _factorial(base: Quantity) -> Quantity:
    if base.value.denominator != 1 or base.value < 0:
        raise NotPlain
    if base.value > _MAX_FACTORIAL:
        raise TooLarge
    form = Form.WORK if base.form is Form.WORK else Form.POWER
    return Quantity(value=Fraction(factorial(int(base.value))), form=form)


def _hundredth(base: Quantity) -> Quantity:
    places = None if base.places is None else base.places + 2
    return replace(base, value=base.value / 100, places=places, percent=True, literal=False)


def _is_power_of_ten(number: Quantity) -> bool:
    if number.form is not Form.POWER or number.value <= 0:
        return False
    top, bottom = number.value.numerator, number.value.denominator
    return min(top, bottom) == 1 and 10 ** _digits(max(top, bottom)) == max(top, bottom)


def _decimal_exponent(value: Fraction) -> int:
    return _digits(value.numerator) or -_digits(value.denominator)


def _digits(number: int) -> int:
    """Return the power of ten next to ``number``."""
    return round(number.bit_length() * 0.30102999566398 - 0.5) if number > 1 else 0


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge
    return value
