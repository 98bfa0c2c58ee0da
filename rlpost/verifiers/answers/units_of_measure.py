"""The unit behind a number: which words are one, and which units are the same.

Owns the names of units and of large numbers. Refuses to convert: 1 m and 100 cm are not
compared by value. Invariant: a unit that no list here knows never makes an answer wrong.
"""

import re

FUNCTIONS = frozenset((
    "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "arcsin", "arccos",
    "arctan", "asin", "acos", "atan", "log", "ln", "exp", "lg", "pi", "max", "gcd", "lcm", "mod",
    "det", "abs", "floor", "ceil", "infty", "infinity", "inf", "alpha", "beta", "theta", "binom",
))  # fmt: skip
_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_GROUPS = (
    "m meter meters metre metres", "cm centimeter centimeters centimetre centimetres",
    "mm millimeter millimeters millimetre millimetres",
    "km kilometer kilometers kilometre kilometres", "ft foot feet", "in inch inches",
    "yd yard yards", "mi mile miles", "g gram grams gm", "kg kilogram kilograms kgs",
    "mg milligram milligrams", "lb lbs pound pounds", "oz ounce ounces", "t ton tons tonne tonnes",
    "s sec secs second seconds", "min mins minute minutes", "h hr hrs hour hours",
    "d day days", "week weeks", "month months", "yr yrs year years", "l liter liters litre litres",
    "ml milliliter milliliters millilitre millilitres", "n newton newtons", "j joule joules",
    "kj kilojoule kilojoules", "w watt watts", "kw kilowatt kilowatts", "v volt volts",
    "a amp amps ampere amperes", "hz hertz", "pa pascal pascals", "kpa", "k kelvin kelvins",
    "mol mole moles", "c celsius", "f fahrenheit", "rad radian radians", "deg degree degrees",
    "cent cents", "ev", "ohm ohms", "gallon gallons gal", "acre acres",
    "dollar dollars usd", "euro euros eur", "yuan rmb cny", "rupee rupees inr", "yen jpy",
)  # fmt: skip
_SAME = {name: group.split()[0] for group in _GROUPS for name in group.split()}
_QUOTIENTS = {"mph": "mi/h", "kmh": "km/h", "kmph": "km/h", "kph": "km/h"}
_MONEY = {"$": "dollar", "€": "euro"}
_NO_UNITS = frozenset(("and", "or", "is", "are", "was", "not", "isn", "cannot", "but", "nor"))
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d))"
_WORD = r"[A-Za-zµμΩ]+\.?"
_UNIT = re.compile(
    rf"(?P<body>.*[\d)}}\]%])(?P<gap>\s*)"
    rf"(?P<unit>(?:\^\s*\\circ\s*[CFK]?|{_WORD}{_POWER}?)"
    rf"(?:(?:\s*[/*·-]\s*|\s+){_WORD}{_POWER}?)*)",
    re.S,
)
_FORMULA_UNIT = re.compile(rf"(?P<body>.*\\.*\S)\s+(?P<unit>{_WORD}{_POWER}?)", re.S)
_DEGREES = re.compile(r"\^\s*\\circ\s*([CFK]?)")
_ATOM = re.compile(r"([A-Za-zµμΩ]+)\.?\s*(?:\^\s*\{?\s*(-?\d+)\s*\}?)?")
_SINGLE = frozenset("msghlLNJWVKCFA")  # letters that are rather a unit than a variable


def split_unit(text: str) -> tuple[str, int, str] | None:
    """Split ``5 m/s`` into ``("5", 1, "m/s")``; None when no unit ends the text.

    The integer is the factor that a word such as "million" stands for.
    """
    match = _UNIT.fullmatch(text.strip())
    if match is None:
        return None
    body, unit, spaced = match["body"], match["unit"].strip(), bool(match["gap"])
    words = [word for word, _ in _ATOM.findall(_DEGREES.sub("", unit))]
    if any(word.lower() in FUNCTIONS or word.lower() in _NO_UNITS for word in words):
        return None
    if not all(_is_unit(word, spaced=spaced) for word in words):
        return None
    scale = 1
    rest = unit
    while (first := rest.split(maxsplit=1)) and first[0].lower().rstrip("s") in _SCALES:
        scale *= _SCALES[first[0].lower().rstrip("s")]
        rest = first[1] if len(first) > 1 else ""
    return body, scale, rest


def split_formula_unit(text: str) -> tuple[str, str]:
    """Split ``2\\pi cm`` into ``("2\\pi", "cm")``; only units that are known, and words."""
    match = _FORMULA_UNIT.fullmatch(text)
    if (
        match
        and is_known(match["unit"])
        and all(len(w) > 1 for w, _ in _ATOM.findall(match["unit"]))
    ):
        return match["body"], match["unit"]
    return text, ""


def is_known(unit: str) -> bool:
    """Whether every word of a unit has a name here."""
    return bool(unit) and _spelled(unit) is not None


def currency(text: str) -> str:
    """Return the unit that the sign of money in a text stands for, empty where there is none."""
    return next((unit for sign, unit in _MONEY.items() if sign in text), "")


def contradict(a: str, b: str) -> bool:
    """Whether two units are both known and not the same."""
    if not a or not b:
        return False
    first, second = _spelled(a), _spelled(b)
    return first is not None and second is not None and first != second


def differ(a: str, b: str) -> bool:
    """Whether two units contradict each other or, both being words, have no word in common."""
    if contradict(a, b):
        return True
    first, second = ({word.lower().rstrip("s") for word, _ in _ATOM.findall(u)} for u in (a, b))
    return bool(a and b) and not (is_known(a) and is_known(b)) and not first & second


def _is_unit(word: str, *, spaced: bool) -> bool:
    """A word of two letters or more; a single letter only where a space sets it apart."""
    if len(word) == 1:
        return spaced and word in _SINGLE
    return spaced or word.lower() in _SAME or word.lower() in _QUOTIENTS


def _spelled(unit: str) -> tuple[tuple[str, int], ...] | None:
    """The unit as known names with their powers; None where a name is unknown."""
    degrees = _DEGREES.fullmatch(unit.strip())
    if degrees:
        return (((degrees[1] or "deg").lower(), 1),)
    unit = _QUOTIENTS.get(unit.strip().lower(), unit)
    powers: dict[str, int] = {}
    for side, part in enumerate(re.split(r"/|\bper\b", unit)):
        for word, power in _ATOM.findall(part):
            name = _SAME.get(word.lower())
            if name is None:
                return None
            sign = -1 if side else 1
            powers[name] = powers.get(name, 0) + sign * int(power or 1)
    return tuple(sorted(powers.items()))
