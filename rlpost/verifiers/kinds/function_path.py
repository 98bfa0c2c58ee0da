"""``FILE.py:function``, as users write it, and the names that functions get from it."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.errors import UserError

_NOT_IN_NAMES = re.compile(r"\W")


@dataclass(frozen=True, kw_only=True)
class FunctionPath:
    """Where a function is.

    Example: ``FunctionPath.parse("rewards.py:correct")``; ``rewards.py:scorer.correct`` is the
    method of an object.
    """

    file: Path
    name: str  # the function, or a dotted way to it

    @classmethod
    def parse(cls, text: Any) -> "FunctionPath":
        """Raises UserError: not of this form."""
        file, colon, name = text.rpartition(":") if isinstance(text, str) else ("", "", "")
        if not colon or not file.strip() or not all(p.isidentifier() for p in name.split(".")):
            raise UserError(
                f"path must be FILE.py:function, got {text!r}; e.g. rewards.py:my_reward, or a "
                "list of several"
            )
        return cls(file=Path(file).expanduser(), name=name)

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"

    def absolute(self) -> "FunctionPath":
        """Return the same function for a process in another working directory."""
        return FunctionPath(file=self.file.resolve(), name=self.name)


def parse_all(paths: Any) -> list[FunctionPath]:
    """Return the functions of ``verifier.path``: one text, or a list.

    Raises:
        UserError: not of this form, none, or the same function twice.
    """
    written = paths if isinstance(paths, list | tuple) else [paths]
    if not written:
        raise UserError("path names no function; give FILE.py:function, or a list of these")
    parsed = [FunctionPath.parse(each) for each in written]
    places = Counter((os.path.realpath(each.file), each.name) for each in parsed)
    for each in parsed:
        if places[os.path.realpath(each.file), each.name] > 1:
            raise UserError(
                f"path names {str(each)!r} twice; name it once, with a larger weight if it is to "
                "count more"
            )
    return parsed


def names_of(paths: Sequence[FunctionPath]) -> list[str]:
    """Return a different name for each function: its own, after its file's where that is taken.

    Example: ``a.py:f`` and ``b.py:f`` become ``a_f`` and ``b_f``.
    """
    short = [path.name.replace(".", "_") for path in paths]
    taken = {name for name in short if short.count(name) == 1}
    names: list[str] = []
    for path, name in zip(paths, short, strict=True):
        if short.count(name) > 1:
            longer = f"{_NOT_IN_NAMES.sub('_', path.file.stem)}_{name}"
            numbered = (longer, *(f"{longer}_{number}" for number in range(2, len(paths) + 2)))
            name = next(each for each in numbered if each not in taken)
            taken.add(name)
        names.append(name)
    return names
