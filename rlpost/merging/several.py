"""Several models become one, tensor by tensor.

Owns which tensor of which model becomes which tensor of the result, and its value. Refuses to own
arithmetic (methods/), comparison of models (comparison.py) and files (weights_file.py).
Invariants: everything that can be refused without reading weights is refused by ``plan``;
arithmetic is in float32 and each tensor is rounded once; one tensor of each model is in memory at a
time; the result depends neither on the order of tensors nor on how files are divided.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rlpost.errors import UserError
from rlpost.merging.comparison import mergeable_names, require_alike
from rlpost.merging.layers import LayerMap
from rlpost.merging.measures import MergeMeasures
from rlpost.merging.methods import merges
from rlpost.merging.methods.base import BaseUse, MethodConfig, PerModel, Sparse, TensorInputs
from rlpost.merging.methods.ties import TrimScope
from rlpost.merging.options import require_known, tensor_options
from rlpost.merging.recipe import MergeSource, Recipe, Slice
from rlpost.merging.trimming import model_threshold
from rlpost.merging.weights_file import PlannedTensor
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.shell import open_shell
from rlpost.models.directory.weight_files import StoredTensor
from rlpost.models.fingerprint import fingerprint_of


@dataclass(frozen=True, kw_only=True)
class MergeInput:
    """A model that is merged, or the base."""

    name: str  # as the user called it
    directory: ModelDirectory
    fingerprint: str

    @classmethod
    def of(cls, name: str, directory: ModelDirectory) -> "MergeInput":
        """Take the fingerprint of the weights."""
        fingerprint = fingerprint_of(directory.tensors)
        return cls(name=name, directory=directory, fingerprint=fingerprint)


@dataclass(frozen=True, kw_only=True)
class OutputTensor:
    """How one tensor of the result is made."""

    planned: PlannedTensor
    sources: tuple[tuple[str, str], ...]  # model, and the tensor's name there
    base: str | None  # the tensor's name in the base
    common: MethodConfig
    models: tuple[PerModel, ...]  # options of each source


@dataclass(frozen=True, kw_only=True)
class ModelMerge:
    """A merge that passed every check.

    Example: ``ModelMerge.plan(recipe, inputs, dtype=None, seed=0)``
    """

    recipe: Recipe
    inputs: Mapping[str, MergeInput]  # by the names in the recipe, the base among them
    outputs: Mapping[str, OutputTensor]
    layers: LayerMap
    seed: int
    measures: MergeMeasures = field(compare=False)

    @classmethod
    def plan(
        cls,
        recipe: Recipe,
        inputs: Mapping[str, MergeInput],
        *,
        dtype: torch.dtype | None,
        seed: int,
    ) -> "ModelMerge":
        """Check that the models can be merged so.

        Args:
            recipe: any.
            inputs: every model that it names, the base among them.
            dtype: of the result's floating-point tensors; None: as the models have them.
            seed: of random masks.

        Raises:
            UserError: models or parameters do not fit.
        """
        method = merges.get(recipe.method)
        config: Any = method.config
        _require_base(recipe, config.base_use)
        takes_base = config.base_use is not BaseUse.measured
        require_known(recipe, method, base=recipe.base if takes_base else None)
        shells = {name: each.directory.shell() for name, each in inputs.items()}
        names = {
            name: mergeable_names(each.directory, shells[name]) for name, each in inputs.items()
        }
        first, *rest = inputs
        for other in rest:
            require_alike(
                inputs[first].directory,
                inputs[other].directory,
                names=(names[first], names[other]),
                dtypes=dtype is None,
            )
        layers = LayerMap.of(recipe, inputs[first].directory, names[first], shells[first])
        stored = inputs[first].directory.tensors
        outputs = {
            name: _output(
                name, part, depth, recipe=recipe, layers=layers, stored=stored, dtype=dtype
            )
            for name, part, depth in layers.tensors()
        }
        _require_one_trimming(list(outputs.values()), recipe.place)
        return cls(
            recipe=recipe,
            inputs=inputs,
            outputs=outputs,
            layers=layers,
            seed=seed,
            measures=MergeMeasures(base=recipe.base),
        )

    @property
    def planned(self) -> list[PlannedTensor]:
        """The tensors of the result."""
        return [each.planned for each in self.outputs.values()]

    def shell(self, start: ModelDirectory) -> Any:
        """Return the result without its weights, with the config of ``start``.

        Raises:
            UserError: the tensors are not those of a model.
        """
        stored = {
            name: replace(start.tensors[output.sources[0][1]], shape=output.planned.shape)
            for name, output in self.outputs.items()
        }
        kinds = {each.dtype for each in self.planned if each.dtype.is_floating_point}
        return open_shell(
            start.path,
            copy.deepcopy(self.layers.config),
            stored,
            field=self.recipe.place,
            dtype=kinds.pop() if len(kinds) == 1 else None,
        )

    def value_of(self, name: str) -> Tensor:
        """Return a tensor of the result; ``measures`` takes note of it.

        Raises:
            UserError: an input or the result is not finite, or whole numbers differ.
        """
        output = self.outputs[name]
        values = {model: self._read(model, own) for model, own in output.sources}
        planned = output.planned
        if not planned.dtype.is_floating_point:
            return _same(values, name)
        base = None
        if output.base is not None and self.recipe.base is not None:
            known = (self.recipe.base, output.base) in output.sources
            base = values[self.recipe.base] if known else self._read(self.recipe.base, output.base)
        takes_base = output.common.base_use is not BaseUse.measured
        thresholds = self._thresholds
        merged = merges.get(self.recipe.method).target(
            TensorInputs(
                values=list(values.values()),
                base=base if takes_base else None,
                seeds=[self._seed(name, model) for model, _ in output.sources],
                thresholds=[thresholds[model] for model, _ in output.sources] if thresholds else (),
            ),
            output.models,
            output.common,
        )
        self.measures.add(name, values, base, merged)
        value: Tensor = merged.value.to(planned.dtype)
        if not _is_finite(value):
            raise UserError(
                f"{self.recipe.place}: {name} of the result holds values that {planned.dtype} "
                "cannot hold; use smaller weights, or merge.dtype=float32"
            )
        return value

    @cached_property
    def _thresholds(self) -> dict[str, float]:
        """Return the size from which on a model's entries are kept; empty: each tensor has one."""
        outputs = list(self.outputs.values())
        if not _spans_tensors(outputs):
            return {}
        names = dict.fromkeys(model for each in outputs for model, _ in each.sources)
        return {model: self._threshold(model) for model in names}

    def _threshold(self, model: str) -> float:
        own = [
            (dict(each.sources)[model], each)
            for each in self.outputs.values()
            if model in dict(each.sources) and each.planned.dtype.is_floating_point
        ]
        first = own[0][1]
        options = first.models[[name for name, _ in first.sources].index(model)]
        assert isinstance(options, Sparse) and self.recipe.base is not None
        base = self.recipe.base

        def vectors() -> Iterator[Tensor]:
            for name, each in own:
                assert each.base is not None
                yield self._read(model, name).sub_(self._read(base, each.base))

        return model_threshold(vectors, options.density)

    def _read(self, model: str, name: str) -> Tensor:
        stored = self.inputs[model].directory.tensors[name]
        value = stored.read()
        if not value.is_floating_point():
            return value
        value = value.float()
        if not _is_finite(value):
            raise UserError(
                f"{self.recipe.place}: {stored.file} holds values in {name} that are not finite "
                "numbers, so the model was damaged when it was trained or written; use another "
                "copy of it"
            )
        return value

    def _seed(self, tensor: str, model: str) -> int:
        text = f"{self.seed}\n{tensor}\n{self.inputs[model].fingerprint}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1


def _output(
    name: str,
    part: Slice,
    depth: float,
    *,
    recipe: Recipe,
    layers: LayerMap,
    stored: Mapping[str, StoredTensor],
    dtype: torch.dtype | None,
) -> OutputTensor:
    """Return how a tensor is made; ``stored`` are the tensors of any of the models."""
    method = merges.get(recipe.method)
    config: Any = method.config
    sources = _ordered(part, recipe, takes_base=config.base_use is not BaseUse.measured)
    _require_number(recipe, part, sources, config.num_models)
    common, own = tensor_options(recipe, part, sources, method, tensor=name, depth=depth)
    like = stored[layers.source_name(name, part.sources[0])]
    kind = like.torch_dtype
    return OutputTensor(
        planned=PlannedTensor(
            name=name,
            dtype=dtype if dtype is not None and kind.is_floating_point else kind,
            shape=like.shape,
        ),
        sources=tuple((each.model, layers.source_name(name, each)) for each in sources),
        base=None if recipe.base is None else layers.base_name(name, part, recipe.base),
        common=common,
        models=own,
    )


def _require_base(recipe: Recipe, use: BaseUse) -> None:
    if use is BaseUse.required and recipe.base is None:
        raise UserError(
            f"{recipe.place}: {recipe.method} merges differences from a base, and none is named; "
            "give base_model in the file, or model.path=BASE"
        )


def _ordered(part: Slice, recipe: Recipe, *, takes_base: bool) -> list[MergeSource]:
    """Return the models that are merged: without the base, or with it in front."""
    others = [each for each in part.sources if each.model != recipe.base]
    if takes_base:
        return others
    return [each for each in part.sources if each.model == recipe.base] + others


def _require_number(
    recipe: Recipe, part: Slice, sources: Sequence[MergeSource], wanted: int | None
) -> None:
    if not sources:
        raise UserError(
            f"{recipe.place}: {part.place} names the base alone; name what is merged into it"
        )
    if wanted is not None and len(sources) != wanted:
        raise UserError(
            f"{recipe.place}: {recipe.method} takes {wanted} model{'s' if wanted > 1 else ''}, got "
            f"{len(sources)} in {part.place}; linear and ties take any number"
        )


def _spans_tensors(outputs: Sequence[OutputTensor]) -> bool:
    """Whether entries are kept by their size in the whole model."""
    scopes = {getattr(each.common, "trim", TrimScope.tensor) for each in outputs}
    return scopes == {TrimScope.model}


def _require_one_trimming(outputs: Sequence[OutputTensor], place: str) -> None:
    scopes = {getattr(each.common, "trim", TrimScope.tensor) for each in outputs}
    if scopes == {TrimScope.tensor}:
        return
    densities: dict[str, set[float]] = {}
    for each in outputs:
        for (model, _), own in zip(each.sources, each.models, strict=True):
            densities.setdefault(model, set()).add(getattr(own, "density", 1.0))
    if len(scopes) > 1 or any(len(found) > 1 for found in densities.values()):
        raise UserError(
            f"{place}: trim: model keeps a share of the whole model, so trim and density must be "
            "the same in all tensors; leave trim out, or give one density for each model"
        )


def _is_finite(value: Tensor) -> bool:
    """Whether every entry is finite; a sum, which is cheap, decides unless it overflows."""
    return bool(torch.isfinite(value.sum(dtype=torch.float32)) or torch.isfinite(value).all())


def _same(values: Mapping[str, Tensor], name: str) -> Tensor:
    (_, first), *rest = values.items()
    for model, value in rest:
        if not torch.equal(first, value):
            raise UserError(
                f"merge.models: {name} holds whole numbers, which cannot be averaged, and those of "
                f"{model} are others; merge models that were made from one base"
            )
    return first
