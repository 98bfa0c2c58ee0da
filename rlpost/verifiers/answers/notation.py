"""One notation for golds and responses: which characters and commands mean the same.

Owns the spelling. Refuses to own meaning: nothing here knows what a number is. Invariant:
both sides of a comparison pass through the same functions, so a spelling that is missing
here makes two texts differ, and never makes two different values equal.
"""

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎]+")
_VULGAR = re.compile("[¼½¾⅐-⅞↉]")
_INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_DASHES = str.maketrans(dict.fromkeys("−–—―‐‑‒﹣－﹘", "-"))
_SYMBOLS = str.maketrans(
    {
        "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": r"\div ",
        "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
        "∞": r"\infty ", "π": r"\pi ", "√": r"\sqrt ", "∅": r"\emptyset ", "±": r"\pm ",
        "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^\circ ", "º": r"^\circ ",
        "˚": r"^\circ ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ",
        "⁄": "/", "∕": "/", "⟨": "(", "⟩": ")", "、": ", ", "⇒": r"\Rightarrow ",
        "→": r"\to ", "’": "'", "‘": "'", "“": '"', "”": '"',
    }
)  # fmt: skip

_BLOCKS = re.compile(r"\\begin\s*\{(?:equation|align|gather|math|displaymath)\*?\}|"
                     r"\\end\s*\{(?:equation|align|gather|math|displaymath)\*?\}")  # fmt: skip
_SPACING = re.compile(
    r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\(?:thin|en|med|thick)space(?![A-Za-z])|"
    r"\\[hv]space\*?\s*\{[^{}]*\}"
)
_IGNORED = re.compile(
    r"\\m?(?:left|right)(?![A-Za-z])(?:\s*\.(?!\d))?|\\!|"
    r"\\(?:[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|boldsymbol|bm|rm|bf|it)"
    r"(?![A-Za-z])"
)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|"
    r"mathtt|mbox|hbox|emph|underline|operatorname\*?)\s*\{([^{}]*)\}"
)
_RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le",
    "geq": "ge", "geqslant": "ge", "neq": "ne", "varnothing": "emptyset", "degree": "circ",
    "lbrace": "{", "rbrace": "}", "approxeq": "approx", "simeq": "approx", "colon": ":",
    "dots": "ldots", "cdots": "ldots", "infin": "infty", "lt": "<", "gt": ">", "lbrack": "[",
    "rbrack": "]", "langle": "(", "rangle": ")", "times": "*", "cdot": "*", "ast": "*",
    "div": "/", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_PLAIN_SIGNS = {"{": r"\{", "}": r"\}"}
_SHORT_FRACTION = re.compile(
    r"\\frac\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]))\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]))"
)
_BOLD = re.compile(r"(?<![\w)}*])\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*(?![\w(*])")
_ITALIC = re.compile(r"(?<![\w)}*_\\])([*_])(?=[^\s*_])([^*_\n]+?)(?<=\S)\1(?![\w({*])")
_PERCENT = re.compile(r"\s*(?:\\%|\b(?:percent|per cent|pct)\b)", re.IGNORECASE)
_MINUS = re.compile(
    r"(?<!non-)(?<!non )\b(?:negative|minus)\s+(?=\$?\.?\d|\\(?:frac|sqrt|pi)\b)", re.IGNORECASE
)
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_TIMES_X = re.compile(r"(?<=\d)[xX](?=\d)|(?<=[\d)}])\s+[xX]\s+(?=\d)")
_DEGREE = re.compile(r"\^\s*\{\s*\\circ\s*\}|(?<!\^)(?<!\^ )\\circ(?![A-Za-z])")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$+")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_CURRENCY = re.compile(r"\\\$|[$€£¥₹₩₽₺₫฿]")
_QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("「", "」"), ("『", "』"), ("【", "】"), ("«", "»"))
_MAX_LAYERS = 12  # of quotes and braces around an answer
BREAK = "\x1f"  # stands where a formula began or ended


def characters(text: str) -> str:
    """Return ``text`` with each character in its plain form: ASCII digits, minus, LaTeX names.

    Example: ``characters("−½ × 10²") == r"-\\frac{1}{2} \\times  10^{2}"``
    """
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    text = _RAISED.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    text = _VULGAR.sub(_fraction, text)
    text = text.translate(_DASHES).translate(_SYMBOLS)
    text = unicodedata.normalize("NFKC", text).translate(_DASHES).translate(_SYMBOLS)
    return "".join(map(_ascii_digit, text))


def commands(text: str, *, boundary: str = " ") -> str:
    """Return ``text``, already in plain characters, with each LaTeX command in one spelling.

    Args:
        boundary: what replaces the delimiters of a formula.

    Example: ``commands(r"$1{,}000\\text{ cm}$") == " 1,000 cm "``
    """
    if "\\" in text:
        if "\\begin" not in text:
            text = _DOUBLED.sub(r"\\", text)  # escaped twice on its way into a file
        text = _BLOCKS.sub(" ", text)
        text = re.sub(r"\\\$", "$", _DELIMITERS.sub(boundary, text))
        text = _IGNORED.sub("", text.replace(r"\%", "%"))
        text = _SPACING.sub(" ", text)
        for _ in range(3):  # \textbf{\text{...}}
            text = _WRAPPED.sub(r" \1 ", text)
        text = _COMMAND.sub(_renamed, text)
        for _ in range(3):  # \frac{\frac12}3
            text = _SHORT_FRACTION.sub(_braced_fraction, text)
        text = _DEGREE.sub(r"^\\circ ", text)
    else:
        text = _DELIMITERS.sub(boundary, text)
    text = text.replace("{,}", ",")
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ")
    text = _TIMES_X.sub("*", _PERCENT.sub("%", text))
    return _ORDINAL.sub("", _MINUS.sub("-", text))


def without_emphasis(text: str) -> str:
    """Return ``text`` without the stars and underscores that set words in bold or italics."""
    if "*" not in text and "_" not in text:
        return text
    return _ITALIC.sub(r" \2 ", _BOLD.sub(r" \1 ", text))


def peeled(text: str, *, marks: str = ".,;:?。．") -> str:
    """Return ``text`` without the white space, quotes and punctuation around it."""
    for _ in range(_MAX_LAYERS):
        before = text
        text = text.strip().strip("`").strip()
        while text and text[-1] in marks and not text.endswith("..."):
            text = text[:-1].rstrip()
        for opening, closing in _QUOTES:
            if len(text) > 1 and text.startswith(opening) and text.endswith(closing):
                inner = text[1:-1]
                if opening not in inner and closing not in inner:
                    text = inner
        if text.startswith("{") and text.endswith("}") and closes(text, 0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            break
    return text


def without_currency(text: str) -> str:
    """Return ``text`` without signs of money."""
    return _CURRENCY.sub("", text)


def closes(text: str, start: int) -> int:
    """Return where the brace or bracket that opens at ``start`` is closed; -1 when it is not."""
    pairs = {"{": "}", "(": ")", "[": "]"}
    opening, closing = text[start], pairs[text[start]]
    depth = 0
    for place in range(start, len(text)):
        sign = text[place]
        escaped = opening == "{" and place > 0 and text[place - 1] == "\\"
        if sign == opening and not escaped:
            depth += 1
        elif sign == closing and not escaped:
            depth -= 1
            if depth == 0:
                return place
    return -1


def _ascii_digit(sign: str) -> str:
    if sign.isascii():
        return sign
    digit = unicodedata.decimal(sign, None)
    return sign if digit is None else str(digit)


def _fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf" \frac{{{top}}}{{{bottom}}}"


def _renamed(match: re.Match[str]) -> str:
    name = _RENAMED.get(match[1])
    if name is None:
        return match[0]
    if name.isalpha():
        return "\\" + name
    return _PLAIN_SIGNS.get(name, f"{name} ")


def _braced_fraction(match: re.Match[str]) -> str:
    top = match[1] if match[1] is not None else match[2]
    bottom = match[3] if match[3] is not None else match[4]
    return rf"\frac{{{top}}}{{{bottom}}}"
