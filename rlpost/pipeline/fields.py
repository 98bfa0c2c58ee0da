"""The kinds of values in a pipeline's file, and what is said of one that is none.

Owns the rules of single values. Refuses to own which keys there are (read.py, read_stage.py).
Invariant: what is refused is named with the file, the field, the value, the rule and the way out.
"""

import difflib
import keyword
import re
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from rlpost.errors import UserError

# What an id may be: it is a directory, and a name in gates.
_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
# Options that the pipeline sets itself -> what says so in its file.
_OWN = {
    "run.dir": "the pipeline's run.dir",
    "run.name": "the stage's id",
    "resume": "resume= of the pipeline",
    "model.path": "from",
    "teacher.path": "teacher",
}

E = TypeVar("E", bound=Enum)


class Fields:
    """Reads the values of one file; ``at`` is a place in it.

    Example: ``Fields("r1.yaml").whole(tree["times"], "stages[0].retry.times", 10)``
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def id(self, value: Any, at: str) -> str:
        """Return a name that may be a directory, and a word of a gate."""
        if not isinstance(value, str) or not _ID.fullmatch(value) or keyword.iskeyword(value):
            self.refuse(
                at,
                value,
                "must be a name of letters, digits and _, at most 64, and no word of Python",
            )
        return str(value)

    def text(self, value: Any, at: str) -> str:
        """Return text that can be shown."""
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self.refuse(at, value, "must be text; in YAML quote what looks like a number")
        return str(value)

    def whole(self, value: Any, at: str, most: int) -> int:
        """Return a whole number from 1 to ``most``."""
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            self.refuse(at, value, f"must be a whole number from 1 to {most}")
        return int(value)

    def number(self, value: Any, at: str, low: float, high: float) -> float:
        """Return a number from ``low`` to ``high``."""
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not low <= value <= high:
            self.refuse(at, value, f"must be a number in [{low:g}, {high:g}]")
        return float(value)

    def choice(self, value: Any, at: str, kind: type[E]) -> E:
        """Return the member of ``kind`` that is named."""
        names = [each.value for each in kind]
        if value not in names:
            self.unknown(at, value, "choice", names)
        return kind(value)

    def mapping(self, value: Any, at: str) -> dict[str, Any]:
        """Return keys with values."""
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            self.refuse(at, value, "must be keys with values")
        return dict(value)

    def keys(
        self, tree: Mapping[str, Any], at: str, needed: Sequence[str], optional: Sequence[str]
    ) -> None:
        """Refuse a key that is not known, and one that is missing."""
        prefix = f"{at}." if at else ""
        for key in tree:
            if key not in (*needed, *optional):
                self.unknown(f"{prefix}{key}", key, "key", (*needed, *optional))
        for key in needed:
            if tree.get(key) is None:
                raise UserError(f"{self.at(prefix + key)} is missing; every {_thing(at)} has one")

    def unknown(
        self, at: str, value: Any, what: str, known: Collection[str], *, within: str = ""
    ) -> None:
        """Raises UserError: ``value`` is none of ``known``; names the nearest."""
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        there = f"there are: {', '.join(known)}" if known else "there are none"
        inside = f" in {within!a:.100}" if within else ""
        raise UserError(f"{self.at(at)}: there is no {what} {value!a:.60}{inside}; {hint}{there}")

    def refuse(self, at: str, value: Any, rule: str) -> None:
        """Raises UserError: ``value`` breaks ``rule``."""
        raise UserError(f"{self.at(at)}: got {value!r:.100}: {rule}")

    def at(self, field: str) -> str:
        """Return a place in the file as errors name it."""
        return f"{self._path}: {field}"

    def options(self, tree: Any, at: str) -> dict[str, Any]:
        """Read options of a stage: dotted paths, or nested; the leaves by their dotted paths."""
        found: dict[str, Any] = {}
        for key, value in self.mapping(tree, at).items():
            if isinstance(value, dict) and value:
                inner = self.options(value, f"{at}.{key}")
                below = {f"{key}.{name}": each for name, each in inner.items()}
            else:
                below = {key: value}
            for name, each in below.items():
                if name in found:
                    self.refuse(f"{at}.{name}", each, "is given twice; remove one")
                if name.lstrip("+") in _OWN:
                    self.refuse(f"{at}.{name}", each, f"is set by {_OWN[name.lstrip('+')]}")
                found[name] = each
        return found


def _thing(at: str) -> str:
    if not at:
        return "pipeline"
    return "stage" if re.fullmatch(r"stages\[\d+\]", at) else "such part"
