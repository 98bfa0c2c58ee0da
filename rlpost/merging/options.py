"""What a recipe's parameters are for one tensor, as the options of the method.

Owns the search through the recipe, from the nearest to the most general, and the types. Refuses
to own bounds (the dataclasses). Invariant: a parameter that the method does not have, or that has
no effect where it stands, is refused by name.
"""

import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.merging.methods.base import MethodConfig, PerModel
from rlpost.merging.parameter import RecipeParameter, Scalar
from rlpost.merging.recipe import MergeSource, Parameters, Recipe, Slice
from rlpost.registry import Entry

Options = tuple[MethodConfig, tuple[PerModel, ...]]
Settings = Iterable[tuple[str, Parameters]]


def tensor_options(
    recipe: Recipe,
    part: Slice,
    sources: Sequence[MergeSource],
    method: Entry,
    *,
    tensor: str,
    depth: float,
) -> Options:
    """Return the method's options, and those of each source, for one tensor.

    Args:
        recipe: whose parameters have passed ``require_known``.
        part: the slice of the tensor.
        sources: the models that are merged, without a base.
        method: entry of ``merges``.
        tensor: its name in the result.
        depth: 0 in the first layer of the slice, 1 in its last; 0 of tensors outside layers.

    Raises:
        UserError: a value is of the wrong type or outside its bound.
    """
    config: Any = method.config
    common = _filled(config, recipe.settings(part), tensor=tensor, depth=depth)
    place = recipe.place
    check_config(common, place)
    own = []
    for index, source in enumerate(sources):
        settings = recipe.settings(part, source)
        each = _filled(config.per_model, settings, tensor=tensor, depth=depth)
        check_config(each, f"{place}.models[{index}]")
        own.append(each)
    common.check_models(own, place)
    return common, tuple(own)


def require_known(recipe: Recipe, method: Entry, *, base: str | None) -> None:
    """Refuse parameters without effect.

    Args:
        recipe: any.
        method: entry of ``merges``.
        base: the base whose differences are merged; None: the method has none.

    Raises:
        UserError: names the parameter and what the method has.
    """
    config: Any = method.config
    own, common = set(_names(config.per_model)), set(_names(config))
    for part in recipe.slices:
        for source in part.sources:
            if source.model == base and source.parameters:
                raise UserError(
                    f"{recipe.place}: parameters of {base} have no effect, because it is the base; "
                    "leave them out"
                )
            _require(source.parameters, own, common, method, f"{recipe.place}: {source.model}")
        _require(part.parameters, own | common, set(), method, f"{recipe.place}: {part.place}")
    _require(recipe.parameters, own | common, set(), method, recipe.place)


def _require(
    given: Parameters, known: set[str], elsewhere: set[str], method: Entry, place: str
) -> None:
    for name in given:
        if name in elsewhere:
            raise UserError(
                f"{place}: parameters.{name} is one for all models; write it under the "
                "parameters of the whole file or of the slice"
            )
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise UserError(
                f"{place}: parameters.{name} is not known to the method {method.name}, whose "
                f"parameters here are: {listed}"
            )


def _names(config: type) -> dict[str, str]:
    """Return parameter -> field: ``lambda`` is no name in Python."""
    return {each.name.rstrip("_"): each.name for each in fields(config)}


def _filled(config: type, settings: Settings, *, tensor: str, depth: float) -> Any:
    found = list(settings)
    hints = typing.get_type_hints(config)
    values: dict[str, Any] = {}
    for name, attribute in _names(config).items():
        for place, parameters in found:
            if name in parameters:
                value = parameters[name].value(tensor, depth)
                if value is not None:
                    values[attribute] = _typed(value, hints[attribute], f"{place}.{name}")
                    break
    return config(**values)


def _typed(value: Scalar, kind: Any, place: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            names = ", ".join(str(each.value) for each in kind)
            raise UserError(f"{place} must be one of {names}, got {value!r}") from None
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise UserError(f"{place} must be true or false, got {value!r}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{place} must be a number, got {value!r}")
    return float(value)


def uses_depth(recipe: Recipe) -> bool:
    """Whether a parameter changes from layer to layer."""
    every: list[Mapping[str, RecipeParameter]] = [recipe.parameters]
    for part in recipe.slices:
        every += [part.parameters, *(source.parameters for source in part.sources)]
    return any(
        len(case.values) > 1
        for parameters in every
        for parameter in parameters.values()
        for case in parameter.cases
    )
