"""The forms that a response can be asked to have, and whether it has one.

Owns the forms. Refuses to own where a form is written down (kinds/format.py). Invariants: a form is
plain data, an object with its ``kind`` and that kind's settings; an empty response has no form;
white space around a response does not count, everything else does.

| kind | settings | the response |
|---|---|---|
| `json` | `keys`: name -> type | is one JSON object with exactly these keys, of these types |
| `bullets` | `count`, `mark` | has so many lines, each: mark, space, text; `1.` counts up |
| `words` | `count` | has so many words, between white space |
| `case` | `case`: `upper` or `lower` | has letters, all of that case |
| `ending` | `text` | ends with this text, and has more before it |
| `separated` | `count`, `mark` | is one line of so many entries with the mark between them |
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

# JSON's own names of types -> what they are in Python.
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
MAX_COUNT = 10_000
_NUMBERED = "1."
_MAX_JSON = 100_000  # characters that are parsed

Form = Mapping[str, Any]


def departure(response: str, form: Form) -> str | None:
    """Return in which way a stripped response departs from a form, None if it has it.

    The form has passed ``refusal_of_form``.
    """
    if not response:
        return "the response is empty"
    return _KINDS[form["kind"]](response, form)


def refusal_of_form(form: object) -> str | None:
    """Return why a value is no form, None if it is one; it follows the name of its place."""
    if not isinstance(form, Mapping):
        return f"must be an object with a kind, got {type(form).__name__}"
    kind = form.get("kind")
    if kind not in _KINDS:
        return f"must have a kind of {', '.join(_KINDS)}, got {kind!r:.80}"
    if {name for name, value in form.items() if value is not None} != {"kind", *_SETTINGS[kind]}:
        return f"must have {', '.join(_SETTINGS[kind])} for kind={kind}, got {sorted(form)!r:.80}"
    for name in _SETTINGS[kind]:
        if not _ALLOWED[name](form[name]):
            return f"has a {name} that cannot be used: {form[name]!r:.80}"
    return None


def _json(response: str, form: Form) -> str | None:
    try:
        value = json.loads(response) if len(response) <= _MAX_JSON else None
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(value, dict):
        return "it is not one JSON object"
    if value.keys() != form["keys"].keys():
        return f"its keys are {sorted(value)!r:.200}"
    for name, wanted in form["keys"].items():
        is_bool = isinstance(value[name], bool)
        if not isinstance(value[name], TYPES[wanted]) or (is_bool and wanted != "boolean"):
            return f"{name} is no {wanted}"
    return None


def _bullets(response: str, form: Form) -> str | None:
    lines = response.splitlines()
    if len(lines) != form["count"]:
        return f"it has {len(lines)} lines instead of {form['count']}"
    for number, line in enumerate(lines, start=1):
        mark = f"{number}." if form["mark"] == _NUMBERED else form["mark"]
        if not line.startswith(f"{mark} ") or not line.removeprefix(mark).strip():
            return f"line {number} does not begin with {mark!r} and a space"
    return None


def _words(response: str, form: Form) -> str | None:
    count = len(response.split())
    return None if count == form["count"] else f"it has {count} words instead of {form['count']}"


def _case(response: str, form: Form) -> str | None:
    right = response.isupper() if form["case"] == "upper" else response.islower()
    return None if right else f"its letters are not all in {form['case']} case"


def _ending(response: str, form: Form) -> str | None:
    before = response.removesuffix(form["text"])
    if before == response:
        return f"it does not end with {form['text']!r:.80}"
    return None if before.strip() else "there is nothing before its ending"


def _separated(response: str, form: Form) -> str | None:
    if len(response.splitlines()) > 1:
        return "it has more than one line"
    entries = response.split(form["mark"])
    if len(entries) != form["count"]:
        return f"it has {len(entries)} entries instead of {form['count']}"
    return None if all(entry.strip() for entry in entries) else "an entry is empty"


_KINDS: dict[str, Callable[[str, Form], str | None]] = {
    "json": _json,
    "bullets": _bullets,
    "words": _words,
    "case": _case,
    "ending": _ending,
    "separated": _separated,
}
_SETTINGS = {
    "json": ("keys",),
    "bullets": ("count", "mark"),
    "words": ("count",),
    "case": ("case",),
    "ending": ("text",),
    "separated": ("count", "mark"),
}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_keys(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(wanted, str) and wanted in TYPES for wanted in value.values())
    )


_ALLOWED: dict[str, Callable[[object], bool]] = {
    "keys": _are_keys,
    "count": _is_count,
    "mark": _is_text,
    "case": lambda value: value in ("upper", "lower"),
    "text": _is_text,
}
