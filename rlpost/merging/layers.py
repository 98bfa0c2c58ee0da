"""Which layers of the models the layers of the result are made of.

Owns the numbers in tensors' names, and the config of a result with another number of layers.
Refuses to own what is done with the tensors. Invariant: each layer of the result has every tensor
that the layers of the models have.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.errors import UserError
from rlpost.merging.options import uses_depth
from rlpost.merging.recipe import MergeSource, Recipe, Slice
from rlpost.models.directory.model_directory import ModelDirectory

_NUMBER = re.compile(r"(^|\.)(\d+)(?=\.)")


def layer_of(name: str) -> int | None:
    """Return the layer of a tensor. Example: 3 of ``model.layers.3.mlp.experts.7.up.weight``."""
    match = _NUMBER.search(name)
    return None if match is None else int(match.group(2))


def with_layer(name: str, number: int) -> str:
    """Return the name of the same tensor of another layer."""
    return _NUMBER.sub(rf"\g<1>{number}", name, count=1)


@dataclass(frozen=True, kw_only=True)
class LayerMap:
    """The slices of a recipe, laid out one after the other."""

    slices: tuple[Slice, ...]
    starts: tuple[int, ...]  # first layer of each slice in the result
    sizes: tuple[int, ...]
    names: tuple[str, ...]  # of the models' tensors
    first: frozenset[str]  # those that come before the layers, such as the embedding
    config: Any  # of the result

    @classmethod
    def of(
        cls, recipe: Recipe, model: ModelDirectory, names: Sequence[str], shell: Any
    ) -> "LayerMap":
        """Lay the slices out.

        Args:
            recipe: any.
            model: one of the models, which are alike.
            names: of its tensors that are merged.
            shell: the model without its weights.

        Raises:
            UserError: a slice has layers that the models lack, or their layers cannot be told.
        """
        total = getattr(model.config, "num_hidden_layers", None)
        numbers = {number for name in names if (number := layer_of(name)) is not None}
        sliced = any(source.layers for part in recipe.slices for source in part.sources)
        if (sliced or uses_depth(recipe)) and numbers != set(range(total or 0)):
            raise UserError(
                f"{recipe.place}: the tensors of {model.path} are not numbered by its layers, so "
                "layers cannot be chosen or have values of their own; use one value for all"
            )
        if not sliced and len(recipe.slices) > 1:
            raise UserError(f"{recipe.place}: slices without layer_range can only be one")
        sizes = tuple(_size(part, total or 0, recipe) for part in recipe.slices)
        starts = tuple(sum(sizes[:index]) for index in range(len(sizes)))
        origin = [
            (part.sources[0].layers or (0, 0))[0] + offset
            for part, size in zip(recipe.slices, sizes, strict=True)
            for offset in range(size)
        ]
        return cls(
            slices=recipe.slices,
            starts=starts,
            sizes=sizes,
            names=tuple(names),
            first=_before_layers(shell),
            config=_config(model.config, origin, field=recipe.place),
        )

    def tensors(self) -> Iterator[tuple[str, Slice, float]]:
        """Yield name, slice and depth of each tensor of the result.

        The depth is 0 in the first layer of a slice and 1 in its last, or only, one; and 0 for
        tensors outside the layers, which belong to the first slice or, those behind the layers, to
        the last.
        """
        for name in self.names:
            if layer_of(name) is None:
                yield name, self.slices[0 if name in self.first else -1], 0.0
        templates: dict[int, list[str]] = {}
        for name in self.names:
            if (number := layer_of(name)) is not None:
                templates.setdefault(number, []).append(name)
        for part, start, size in zip(self.slices, self.starts, self.sizes, strict=True):
            first = (part.sources[0].layers or (0, 0))[0]
            for offset in range(size):
                depth = offset / (size - 1) if size > 1 else 1.0
                for name in templates.get(first + offset, ()):
                    yield with_layer(name, start + offset), part, depth

    def source_name(self, name: str, source: MergeSource) -> str:
        """Return the name in a source of the tensor that becomes ``name``."""
        number = layer_of(name)
        if number is None or source.layers is None:
            return name
        return with_layer(name, source.layers[0] + number - self._start(number))

    def base_name(self, name: str, part: Slice, base: str) -> str:
        """Return the name in the base of the tensor from which ``name`` differs.

        Raises:
            UserError: the slice's models have different layers there, and the base none.
        """
        own = next((each for each in part.sources if each.model == base), None)
        if own is not None:
            return self.source_name(name, own)
        found = {self.source_name(name, each) for each in part.sources}
        if len(found) > 1:
            raise UserError(
                f"{part.place} merges different layers, so those of the base are not known; name "
                "the base among its sources with a layer_range of its own"
            )
        return found.pop()

    def _start(self, number: int) -> int:
        return max(start for start in self.starts if start <= number)


def _before_layers(shell: Any) -> frozenset[str]:
    """Return the names, as shell and files have them, of what comes before the first layer."""
    prefix = f"{shell.base_model_prefix}."
    found: set[str] = set()
    for name, _ in shell.named_parameters():
        if layer_of(name) is not None:
            break
        found |= {name, name.removeprefix(prefix)}
    return frozenset(found)


def _size(part: Slice, total: int, recipe: Recipe) -> int:
    for source in part.sources:
        if source.layers is not None and source.layers[1] > total:
            raise UserError(
                f"{recipe.place}: {part.place} has the layer_range {list(source.layers)} of "
                f"{source.model}, which has {total} layers"
            )
    ranges = [source.layers for source in part.sources]
    if None in ranges and any(ranges):
        raise UserError(f"{recipe.place}: {part.place} has a layer_range for some sources only")
    first = ranges[0]
    return total if first is None else first[1] - first[0]


def _config(config: Any, origin: Sequence[int], *, field: str) -> Any:
    """Return the config of a model whose layers come from the layers ``origin``."""
    total = getattr(config, "num_hidden_layers", None)
    if total is None or list(origin) == list(range(total)):
        return config
    made = copy.deepcopy(config)
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == total and name != "architectures":
            if any(isinstance(each, dict | list) for each in value):
                raise UserError(
                    f"{field}: config.json says {name} of each layer in a form that is not known "
                    "here, so layers cannot be chosen"
                )
            setattr(made, name, [value[number] for number in origin])
    made.num_hidden_layers = len(origin)
    return made
