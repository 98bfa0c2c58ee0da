"""Several models become one, tensor by tensor.

Owns which tensor of which model becomes which tensor of the result, and its value. Refuses to own
arithmetic (methods/), comparison of models (comparison.py) and files (weights_file.py).
Invariants: everything that can be refused without reading weights is refused by ``plan``;
arithmetic is in float32 and each entry is rounded once; at most one tensor of each model is in
memory at a time, and of methods that work entry by entry only pieces; the result depends neither on
the order of tensors nor on how files are divided.
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
from rlpost.merging.inputs import PIECE, MergeInput, is_finite
from rlpost.merging.layers import LayerMap
from rlpost.merging.measures import MergeMeasures, TensorMeasures
from rlpost.merging.methods import merges
from rlpost.merging.methods.base import (
    BaseUse,
    Cut,
    MethodConfig,
    PerModel,
    Sparse,
    TensorInputs,
)
from rlpost.merging.methods.ties import TiesConfig, TrimScope, cut_of
from rlpost.merging.options import require_known, tensor_options
from rlpost.merging.recipe import MergeSource, Recipe, Slice
from rlpost.merging.trimming import model_threshold
from rlpost.merging.weights_file import PlannedTensor
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.shell import open_shell
from rlpost.models.directory.weight_files import StoredTensor


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

    def pieces_of(self, name: str) -> Iterator[Tensor]:
        """Yield a tensor of the result from its first entry on, flat; ``measures`` takes note.

        Raises:
            UserError: an input or the result is not finite, or whole numbers differ.
        """
        output = self.outputs[name]
        planned = output.planned
        if not planned.dtype.is_floating_point:
            yield self._same(output).flatten()
            return
        takes_base = output.common.base_use is not BaseUse.measured
        method, seeds = merges.get(self.recipe.method), self._seeds(output)
        cuts, measured, start = self._cuts(output), TensorMeasures(), 0
        for values, base in self._read(output):
            merged = method.target(
                TensorInputs(
                    values=list(values.values()),
                    base=base if takes_base else None,
                    seeds=seeds,
                    start=start,
                    cuts=cuts,
                ),
                output.models,
                output.common,
            )
            measured.add(self._vectors(values, base), merged)
            start += merged.value.numel()
            value: Tensor = merged.value.to(planned.dtype)
            if not is_finite(value):
                raise UserError(
                    f"{self.recipe.place}: {name} of the result holds values that {planned.dtype} "
                    "cannot hold; use smaller weights, or merge.dtype=float32"
                )
            yield value
        self.measures.add(name, measured)

    def _read(self, output: OutputTensor) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
        """Yield the sources' values by model and those of the base, whole or in pieces."""
        whole = max(1, torch.Size(output.planned.shape).numel())
        entries = PIECE if output.common.by_entry else whole
        wanted, base = dict.fromkeys(output.sources), None
        if self.recipe.base is not None and output.base is not None:
            base = (self.recipe.base, output.base)
            wanted[base] = None
        pieces = [self.inputs[model].pieces(own, entries=entries) for model, own in wanted]
        for values in zip(*pieces, strict=True):
            found = dict(zip(wanted, values, strict=True))
            sources = {source[0]: found[source] for source in output.sources}
            yield sources, None if base is None else found[base]

    def _vectors(self, values: dict[str, Tensor], base: Tensor | None) -> dict[str, Tensor]:
        """Return what is measured: weights, or in their place the differences from the base."""
        if base is None:
            return values
        return {
            model: value.sub_(base) for model, value in values.items() if model != self.recipe.base
        }

    def _cuts(self, output: OutputTensor) -> list[Cut]:
        """Return what is kept of each task vector, if the method keeps the largest entries."""
        if not isinstance(output.common, TiesConfig):
            return []
        sizes = torch.empty(torch.Size(output.planned.shape).numel())
        cuts = []
        for source, own in zip(output.sources, output.models, strict=True):
            assert isinstance(own, Sparse)
            start = 0
            for tau in self._task_vector(source, output):
                sizes[start : start + len(tau)] = tau.abs_()
                start += len(tau)
            of_model = self._thresholds.get(source[0])
            cuts.append(cut_of(sizes, own.density, of_model=of_model))
        return cuts

    def _task_vector(self, source: tuple[str, str], output: OutputTensor) -> Iterator[Tensor]:
        """Yield the difference of a model's tensor from the base's, in pieces."""
        assert self.recipe.base is not None and output.base is not None
        model, name = source
        value = self.inputs[model].pieces(name)
        base = self.inputs[self.recipe.base].pieces(output.base)
        for one, other in zip(value, base, strict=True):
            yield one.sub_(other)

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
            ((model, dict(each.sources)[model]), each)
            for each in self.outputs.values()
            if model in dict(each.sources) and each.planned.dtype.is_floating_point
        ]
        first = own[0][1]
        options = first.models[[name for name, _ in first.sources].index(model)]
        assert isinstance(options, Sparse)

        def vectors() -> Iterator[Tensor]:
            for source, each in own:
                yield from self._task_vector(source, each)

        return model_threshold(vectors, options.density)

    def _same(self, output: OutputTensor) -> Tensor:
        """Return whole numbers, which must be those of every model."""
        (first, name), *rest = output.sources
        value = self.inputs[first].whole_numbers(name)
        for model, own in rest:
            if not torch.equal(value, self.inputs[model].whole_numbers(own)):
                raise UserError(
                    f"merge.models: {own} holds whole numbers, which cannot be averaged, and those "
                    f"of {model} are others; merge models that were made from one base"
                )
        return value

    def _seeds(self, output: OutputTensor) -> list[int]:
        name = output.planned.name
        return [self._seed(name, model) for model, _ in output.sources]

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
