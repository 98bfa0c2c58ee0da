"""Are two formulas equal? The only file that calls sympy, through math_verify's parser.

Owns what sympy may be given: bounded lengths, exponents and depth, so that nothing it is
asked takes long; the sandbox's deadline is behind that. Refuses plain numbers, lists and
words, which never come here. Invariants: nothing raises; constants are compared with a
relative tolerance; what sympy cannot read equals only itself.
"""

import functools
import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from rlpost.verifiers.answers.notation import closes
from rlpost.verifiers.answers.quantity import Quantity, same_number
from rlpost.verifiers.answers.units_of_measure import FUNCTIONS
from rlpost.verifiers.workers.safe_call import attempt

_MAX_LENGTH = 600
_MAX_EXPONENT = 60  # of an expression with variables
_MAX_CONSTANT_EXPONENT = 5000
_MAX_DEPTH = 12
_POINTS = 4  # at which two formulas with variables are evaluated
_MAX_DIGITS = 300  # of one number
_DIGITS = 30  # of constants that are compared
_NEAR = 0.001  # relative, of a constant and a number that may be its rounding
_TOLERANCE = 10.0**-20  # relative, of two constants computed to _DIGITS

_BARE_FUNCTION = re.compile(
    rf"(?<![\\A-Za-z])({'|'.join(sorted(FUNCTIONS, key=len, reverse=True))})(?![A-Za-z])"
)
_BARE_EXPONENT = re.compile(r"([\^_])\s*(-?\d+(?:\.\d+)?)")
_LEADING_POINT = re.compile(r"(?<!\d)\.(?=\d)")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])|\\imath")
_EXPENSIVE = re.compile(r"\\(?:int|iint|oint|sum|prod|lim)(?![A-Za-z])")

# What sympy works out while it parses: (9!)! and the binomials of large numbers.
_NESTED_FACTORIAL = re.compile(r"!\s*[)}\]]*\s*!")
_COUNTED = re.compile(r"\\(?:binom|dbinom|tbinom|Gamma|zeta|choose)(?![A-Za-z])")
_MAX_GROWTH = 2  # exponentials inside exponentials


def prepare() -> None:
    """Import sympy and the parser and fill their caches; takes about half a second."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of what we ask for
    same_formula(r"\frac{x}{2}", "0.5x")
    same_formula("x < 1", "1 > x")


def same_formula(gold: str, answer: str) -> bool:
    """Whether two formulas in LaTeX are equal by value."""
    first, second = _parsed(gold), _parsed(answer)
    if first is None or second is None:
        return False
    equal, _ = attempt(lambda: _equal(first, second))
    return bool(equal)


def same_as_number(number: Quantity, formula: str) -> bool:
    """Whether a formula has the value of a number, which may be rounded."""
    parsed = _parsed(formula)
    if parsed is None:
        return False
    equal, _ = attempt(lambda: _equals_number(number, parsed))
    return bool(equal)


def is_computation(formula: str) -> bool:
    """Whether a formula without variables is a sum or product that nobody worked out."""
    import sympy

    parsed = _parsed(formula)
    return isinstance(parsed, sympy.Add | sympy.Mul) and not parsed.free_symbols


@functools.lru_cache(maxsize=256)
def _parsed(formula: str) -> Any | None:
    if not _is_affordable(formula):
        return None
    parsed, _ = attempt(lambda: _parse(_as_latex(formula)))
    return parsed


def _parse(latex: str) -> Any:
    import sympy
    from latex2sympy2_extended.latex2sympy2 import latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    spelling = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="none")
    is_real = _IMAGINARY.search(latex) is None
    parsed = latex2sympy(
        normalize_latex(latex, spelling),
        is_real=is_real,
        convert_degrees=False,
        normalization_config=None,
    )
    if isinstance(parsed, sympy.Expr):
        exact = {f: sympy.Rational(str(f)) for f in parsed.atoms(sympy.Float)}
        parsed = parsed.xreplace(exact)
        if not is_real:
            parsed = parsed.subs({s: sympy.I for s in parsed.free_symbols if s.name == "i"})
        if _growth(parsed) > _MAX_GROWTH:
            return None
    return parsed


def _growth(expression: Any) -> int:
    """Return how often something that grows exponentially stands inside its like.

    The digits of e^{e^{e^5}} are too many to compute any of them, and no number is large.
    """
    import sympy

    if expression.is_Number:
        return int(bool(abs(expression) > 1000))
    inner = max(map(_growth, expression.args), default=0)
    if isinstance(expression, sympy.Pow):
        exponent = expression.args[1]
        # x^2 stays of the size of x, and so does 1/x.
        return inner if exponent.is_Number and abs(exponent) <= 10 else inner + 1
    growing = (sympy.exp, sympy.factorial, sympy.gamma, sympy.sinh, sympy.cosh, sympy.zeta)
    return inner + isinstance(expression, growing)


def _as_latex(text: str) -> str:
    """Return what a person types, such as ``2*sqrt(2)`` or ``x^10``, as LaTeX means it."""
    text = _LEADING_POINT.sub("0.", text)
    text = _BARE_FUNCTION.sub(r"\\\1", text)
    text = _BARE_EXPONENT.sub(r"\1{\2}", text)
    text = _braced(text, "^")
    return _braced(text, r"\sqrt").replace(r"\infinity", r"\infty")


def _braced(text: str, sign: str) -> str:
    """Replace the parentheses that follow ``sign`` by braces."""
    place = text.find(sign)
    while place >= 0:
        start = place + len(sign)
        while start < len(text) and text[start] == " ":
            start += 1
        if start < len(text) and text[start] == "(":
            end = closes(text, start)
            if end > 0:
                text = f"{text[:start]}{{{text[start + 1 : end]}}}{text[end + 1 :]}"
        place = text.find(sign, place + len(sign))
    return text


def _is_affordable(formula: str) -> bool:
    if len(formula) > _MAX_LENGTH or _EXPENSIVE.search(formula):
        return False
    depth = deepest = 0
    for sign in formula:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    longest = max(map(len, re.findall(r"\d+", formula)), default=0)
    if deepest > _MAX_DEPTH or longest > _MAX_DIGITS:
        return False
    if _NESTED_FACTORIAL.search(formula):
        return False
    if _COUNTED.search(formula) and (longest > 4 or "^" in formula or "!" in formula):
        return False
    has_variables = re.search(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", formula) is not None
    bound = _MAX_EXPONENT if has_variables else _MAX_CONSTANT_EXPONENT
    exponents = re.finditer(r"\^\s*(?:\{|\()?\s*-?", formula)
    if not all(_is_small(formula[match.end() :], bound) for match in exponents):
        return False
    powers = map(int, re.findall(r"\^\s*[{(]?\s*-?(\d+)", formula))
    if math.prod(powers) > _MAX_CONSTANT_EXPONENT:
        return False
    factorials = re.findall(r"(\d+)\s*\}?\)?\s*!", formula)
    return all(len(number) < 4 for number in factorials)


def _is_small(exponent: str, bound: int) -> bool:
    match = re.match(r"[\d^{}() *+/!.-]+", exponent)
    if match is None:
        return True
    digits = re.match(r"\d+", exponent)
    if digits is None:
        return "^" not in match[0].partition("}")[0]
    after = exponent[digits.end() :].lstrip(" ")
    # 10^{10^{10}}, 10^{9!} and 10^{9*9*9} are towers; what follows the brace is not.
    inside = after.partition("}")[0].partition(")")[0]
    return len(digits[0]) < 6 and int(digits[0]) <= bound and not re.match(r"[\^!*]", inside)


def _equal(first: Any, second: Any) -> bool:
    import sympy

    undefined = (sympy.nan, sympy.zoo)
    if any(isinstance(each, sympy.Basic) and each.has(*undefined) for each in (first, second)):
        return False
    if isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr):
        return _same_expression(first, second)
    from math_verify import verify

    return bool(verify([first], [second], timeout_seconds=None, allow_set_relation_comp=True))


def _same_expression(first: Any, second: Any) -> bool:
    from sympy.core.function import AppliedUndef

    first, second = first.doit(), second.doit()
    if first == second:
        return True
    if first.is_infinite or second.is_infinite:
        return False
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    if not symbols:
        return _same_constant(first, second)
    if first.atoms(AppliedUndef) or second.atoms(AppliedUndef):
        return False
    # Two formulas that agree at some arbitrary points are the same; expanding both, or asking
    # sympy to simplify their difference, may take forever.
    points = [dict(zip(symbols, _values(shift), strict=False)) for shift in range(_POINTS)]
    return all(_same_constant(first, second, point) for point in points)


def _values(shift: int) -> Iterator[Any]:
    """Arbitrary numbers of both signs that no formula is likely to be special at."""
    import sympy

    for place in itertools.count():
        numerator = 7919 * (3 * place + 2 * shift + 1) % 2011 + 211
        yield sympy.Rational((-1) ** ((place >> shift) + shift) * numerator, 1009)


def _same_constant(first: Any, second: Any, point: Mapping[Any, Any] | None = None) -> bool:
    import sympy

    a, b = (each.evalf(_DIGITS, subs=point) for each in (first, second))
    if not (a.is_finite and b.is_finite):
        return a == b and a in (sympy.oo, -sympy.oo)
    scale = max(sympy.Abs(a), sympy.Abs(b))
    return bool(sympy.Abs(a - b) <= scale * _TOLERANCE)


def _equals_number(number: Quantity, formula: Any) -> bool:
    import sympy

    if not isinstance(formula, sympy.Expr) or formula.free_symbols:
        return False
    exact = sympy.Rational(number.value.numerator, number.value.denominator)
    if _same_constant(formula.doit(), exact):
        return True
    value = sympy.N(formula, _DIGITS)
    if not value.is_real or not value.is_finite:
        return False
    if sympy.Abs(value - exact) > sympy.Abs(exact) * _NEAR:
        return False  # and its digits may be too many to write them down
    return same_number(number, Quantity(value=Fraction(str(value))))
