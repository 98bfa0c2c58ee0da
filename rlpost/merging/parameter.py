"""One parameter of a recipe: a number, a gradient over layers, or cases by the tensor's name.

Owns mergekit's meaning of the three. Refuses to own which parameters a method has.

Sources: mergekit's documentation of its YAML.
"""

from dataclasses import dataclass
from typing import Any

from rlpost.errors import UserError

Scalar = float | bool | str

_CASE_KEYS = {"filter", "value"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Values for the tensors whose names contain ``filter``; None: for all."""

    filter: str | None
    values: tuple[Scalar, ...]  # several: a gradient from the first layer to the last

    def value(self, depth: float) -> Scalar:
        """Return the value at ``depth``, 0 in the first layer and 1 in the last."""
        if len(self.values) == 1:
            return self.values[0]
        place = depth * (len(self.values) - 1)
        below = int(place)
        above = min(below + 1, len(self.values) - 1)
        part = place - below
        low, high = self.values[below], self.values[above]
        assert not isinstance(low, str) and not isinstance(high, str)
        return (1 - part) * low + part * high


@dataclass(frozen=True, kw_only=True)
class RecipeParameter:
    """Example: ``RecipeParameter.read([0, 1], "t").value("model.norm.weight", depth=0.5)``"""

    cases: tuple[Case, ...]

    @classmethod
    def read(cls, raw: Any, place: str) -> "RecipeParameter":
        """Read what YAML holds at ``place``.

        Raises:
            UserError: it is no value, gradient or list of cases.
        """
        cases = raw if isinstance(raw, list) and raw and isinstance(raw[0], dict) else [raw]
        return cls(cases=tuple(_case(each, place) for each in cases))

    def value(self, tensor: str, depth: float) -> Scalar | None:
        """Return the value for a tensor; None: no case is meant for it."""
        for case in self.cases:
            if case.filter in (None, "*") or str(case.filter) in tensor:
                return case.value(depth)
        return None


def _case(raw: Any, place: str) -> Case:
    if not isinstance(raw, dict):
        return Case(filter=None, values=_values(raw, place))
    strangers = sorted(map(str, raw.keys() - _CASE_KEYS))
    if strangers or "value" not in raw:
        raise UserError(
            f"{place}: a case has `value` and perhaps `filter`, got "
            f"{strangers[0] if strangers else 'none of them'}; write for example "
            "[{filter: mlp, value: 0.5}, {value: 1}]"
        )
    wanted = raw.get("filter")
    if wanted is not None and not isinstance(wanted, str):
        raise UserError(f"{place}.filter must be a part of tensors' names, got {wanted!r:.100}")
    return Case(filter=wanted, values=_values(raw["value"], f"{place}.value"))


def _values(raw: Any, place: str) -> tuple[Scalar, ...]:
    if isinstance(raw, list):
        if raw and all(_is_number(each) for each in raw):
            return tuple(float(each) for each in raw)
        raise UserError(
            f"{place} must be a value or a list of numbers, which are spread over the layers, got "
            f"{raw!r:.100}"
        )
    if _is_number(raw):
        return (float(raw),)
    if isinstance(raw, bool | str):
        return (raw,)
    raise UserError(f"{place} must be a number, true, false or a name, got {raw!r:.100}")


def _is_number(value: Any) -> bool:
    """YAML takes 1e-3 for text."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return abs(value) < 1e300 or isinstance(value, float)
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return any(digit in value for digit in "0123456789")
