"""An option of a configuration: its one line of help and, for a number, its bound.

Owns the declaration in the field and the walk that checks a tree of config dataclasses. Refuses
to own rules between fields: a dataclass that has any says them in its ``check(path)``, which the
walk calls. Invariant: a number that is not finite or outside its bound passes no walk; infinity
passes only where the bound names it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from rlpost.errors import UserError

T = TypeVar("T")
N = TypeVar("N", bound=float | None)

# In the metadata of a field.
_BOUND, _HELP = "bound", "help"
WEEK_S = 7 * 24 * 3600.0  # no time-out is longer: system calls count milliseconds in 32 bits
_MANY_DIGITS = 10**20


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The interval of a field's values; ``hint`` is the way out, such as a usual value."""

    low: float
    high: float
    low_open: bool
    high_open: bool
    hint: str

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies inside; NaN never does."""
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        ends = f"{_readable(self.low)}, {_readable(self.high)}"
        return f"{'(' if self.low_open else '['}{ends}{')' if self.high_open else ']'}"


def option(default: T, *, help: str) -> T:
    """Return a dataclass field for an option that is no number; ``help`` is one line.

    A list or a dictionary is copied for each object.

    Example::

        shuffle: bool = option(True, help="draw the prompts in a random order")
    """
    declared: T
    if isinstance(default, list | dict):
        declared = field(default_factory=default.copy, metadata={_HELP: help})  # type: ignore[assignment]
    else:
        declared = field(default=default, metadata={_HELP: help})
    return declared


def number(
    default: N,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    hint: str = "",
    help: str = "",
) -> N:
    """Return a dataclass field for a number with one bound on either side.

    ``hint`` is the way out that follows a refusal; ``help`` is one line.

    Example::

        steps: int = number(100, at_least=1, at_most=10**9, help="optimizer steps")
    """
    assert (at_least is None) != (above is None), "a number has one lower bound"
    assert (at_most is None) != (below is None), "a number has one upper bound"
    bound = Bound(
        low=at_least if above is None else above,  # type: ignore[arg-type]
        high=at_most if below is None else below,  # type: ignore[arg-type]
        low_open=above is not None,
        high_open=below is not None,
        hint=hint,
    )
    assert default is None or bound.holds(default), f"{default} is not in {bound}"
    declared: N = field(default=default, metadata={_BOUND: bound, _HELP: help})
    return declared


def numbers(*, at_least: float, at_most: float, help: str = "") -> list[Any]:
    """Return a dataclass field for a list of numbers, empty by default, each within the bound."""
    bound = Bound(low=at_least, high=at_most, low_open=False, high_open=False, hint="")
    declared: list[Any] = field(default_factory=list, metadata={_BOUND: bound, _HELP: help})
    return declared


def bound_of(declared: Any) -> Bound | None:
    """Return the bound of a dataclass's field, None where the field has none."""
    bound: Bound | None = declared.metadata.get(_BOUND)
    return bound


def help_of(declared: Any) -> str:
    """Return the one line of a dataclass's field, empty where the field has none."""
    line: str = declared.metadata.get(_HELP, "")
    return line


@runtime_checkable
class HasRules(Protocol):
    """A config dataclass with rules between its fields."""

    def check(self, path: str) -> None:
        """Raises UserError: names the fields of ``path``, the rule and the way out."""


def check_config(config: Any, path: str = "") -> None:
    """Check every number below ``config``, then the rules of each dataclass, innermost first.

    Raises:
        UserError: names the field, its value, the bound or rule and the way out.
    """
    for declared in fields(config):
        place = f"{path}.{declared.name}" if path else declared.name
        value = getattr(config, declared.name)
        bound = bound_of(declared)
        if bound is not None:
            _check_number(value, bound, place)
        elif is_dataclass(value):
            check_config(value, place)
        elif isinstance(value, Mapping):
            for name, each in value.items():
                if is_dataclass(each):
                    check_config(each, f"{place}.{name}")
    if isinstance(config, HasRules):
        config.check(path)


def _check_number(value: float | list[float] | None, bound: Bound, place: str) -> None:
    if isinstance(value, list):
        for index, each in enumerate(value):
            _check_number(each, bound, f"{place}[{index}]")
    elif value is not None and not bound.holds(value):
        hint = f"; {bound.hint}" if bound.hint else ""
        raise UserError(f"{place} must be in {bound}, got {_shown(value)}{hint}")


def _readable(end: float) -> str:
    """Example: ``1e9`` for 1000000000, ``0.3`` for 0.3, ``1025`` for 1025."""
    short = f"{end:g}"
    return short.replace("e+0", "e").replace("e+", "e") if float(short) == end else str(end)


def _shown(value: float) -> str:
    # Python refuses to write integers of more than 4300 digits.
    if isinstance(value, int) and abs(value) >= _MANY_DIGITS:
        return f"an integer of {int(math.log10(abs(value))) + 1} digits"
    return str(value)
