"""Several models merged into one: the plan, the files of the result and the report.

Owns the search for the models and their tokenizers. Refuses to own what can be merged and how
(merging/). Invariant: everything that can be refused is refused by ``prepare_several``.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlpost.checkpoint.state import write_text
from rlpost.errors import UserError
from rlpost.merging.comparison import require_one_vocabulary
from rlpost.merging.recipe import Recipe, load_recipe, read_recipe
from rlpost.merging.several import MergeInput, ModelMerge
from rlpost.merging.weights_file import write_weights
from rlpost.models.card import write_model_card
from rlpost.models.directory.config_file import CONFIG, kind_of
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.export import try_export, write_model_shell
from rlpost.models.locate import locate_model
from rlpost.models.origin import ModelOrigin, ModelUsed
from rlpost.stages.merge.config import MergeConfig, MergedDType
from rlpost.stages.merge.table import REPORT, measured_table
from rlpost.stages.run_directory import RunDirectory

log = logging.getLogger(__name__)

_ADAPTER = "adapter_config.json"
_OPTIONS = "merge.*"


@dataclass(frozen=True, kw_only=True)
class SeveralPlan:
    """A merge of several models that passed every check."""

    merge: ModelMerge
    start: ModelDirectory  # whose config and generation settings the result has
    tokenizer_path: Path
    remarks: list[str]

    @property
    def size_bytes(self) -> int:
        """Of the weights of the result."""
        return sum(each.size_bytes for each in self.merge.planned)

    def write(self, scratch: Path, *, directory: RunDirectory, settings_hash: str) -> str:
        """Write the result into ``scratch``, and the report; return what to tell the person.

        Raises:
            UserError: weights turned out to be damaged, or too large for their type.
        """
        self.write_model(scratch)
        measures = self.merge.measures
        self._write_card(scratch, directory, settings_hash)
        record = {"method": self.merge.recipe.method, "seed": self.merge.seed, **measures.record()}
        record |= {"remarks": self.remarks}
        write_text(directory.root / REPORT, json.dumps(record, indent=1) + "\n")
        return "\n".join([measured_table(measures), *(f"note: {each}" for each in self.remarks)])

    def write_model(self, directory: Path) -> None:
        """Write the model alone."""
        write_model_shell(
            self.merge.shell(self.start),
            directory,
            start=self.start.path,
            tokenizer_path=self.tokenizer_path,
        )
        write_weights(directory, self.merge.planned, self.merge.pieces_of)

    def _write_card(self, scratch: Path, directory: RunDirectory, settings_hash: str) -> None:
        recipe, inputs = self.merge.recipe, self.merge.inputs
        merged = [name for name in inputs if name != recipe.base or name in recipe.models]
        origin = ModelOrigin(
            base=recipe.base or recipe.models[0],
            stage="merge",
            run=directory.root.name,
            step=0,
            run_step=0,
            config_hash=settings_hash,
            how=f"merged by {recipe.method} with {len(merged)} models, which are listed below",
            models=[
                ModelUsed(
                    name=name,
                    role="base" if name == recipe.base else "merged",
                    fingerprint=each.fingerprint,
                )
                for name, each in inputs.items()
            ],
            results=self.merge.measures.metrics(),
        )
        write_model_card(scratch, origin, location=directory.export)


def prepare_several(cfg: MergeConfig) -> SeveralPlan:
    """Check everything that can be checked before a weight is read.

    Raises:
        UserError: the recipe cannot be understood, or the models cannot be merged so.
    """
    return _prepare(cfg, _recipe(cfg))


def prepare_mean(cfg: MergeConfig, models: Sequence[str]) -> SeveralPlan:
    """Check that some models can be averaged.

    Raises:
        UserError: they cannot.
    """
    tree = {
        "merge_method": "linear",
        "models": [{"model": model} for model in models],
        "base_model": cfg.model.path,
    }
    return _prepare(cfg, read_recipe(tree, place=_OPTIONS))


def _prepare(cfg: MergeConfig, recipe: Recipe) -> SeveralPlan:
    field = f"merge.config: {recipe.place}" if cfg.merge.config else "merge.models"
    names = list(dict.fromkeys([*([recipe.base] if recipe.base else []), *recipe.models]))
    found = {name: _read(name, runs=cfg.run.dir, field=field) for name in names}
    merge = ModelMerge.plan(
        recipe,
        {name: MergeInput.of(name, each) for name, each in found.items()},
        dtype=_dtype(cfg, recipe),
        seed=cfg.seed,
    )
    start = found[names[0]]
    tokenizer = _tokenizer(cfg, recipe, found)
    remarks = require_one_vocabulary(
        {str(each.path): each.tokenizer() for each in found.values()},
        field=field,
        chosen=bool(tokenizer),
    )
    try_export(start)
    return SeveralPlan(
        merge=merge,
        start=start,
        tokenizer_path=(tokenizer or start).path,
        remarks=remarks,
    )


def _recipe(cfg: MergeConfig) -> Recipe:
    """Return the file's recipe, or that of the options."""
    settings = cfg.merge
    if settings.config:
        recipe = load_recipe(settings.config)
        if cfg.model.path and recipe.base:
            raise UserError(
                f"model.path={cfg.model.path} and base_model: {recipe.base} in {recipe.place} both "
                "name the base; leave one out"
            )
        return recipe if recipe.base or not cfg.model.path else _with_base(recipe, cfg.model.path)
    weights: list[Any] = list(settings.weights) or [None] * len(settings.models)
    models = [
        {"model": model} | ({} if weight is None else {"parameters": {"weight": weight}})
        for model, weight in zip(settings.models, weights, strict=True)
    ]
    named = {"density": settings.density, "t": settings.t, "normalize": settings.normalize}
    tree = {
        "merge_method": settings.method,
        "models": models,
        "base_model": cfg.model.path,
        "parameters": {name: value for name, value in named.items() if value is not None},
    }
    return read_recipe(tree, place=_OPTIONS)


def _with_base(recipe: Recipe, base: str) -> Recipe:
    from dataclasses import replace

    return replace(recipe, base=base)


def _read(named: str, *, runs: str, field: str) -> ModelDirectory:
    """Return a model: there, in that run, or in the run of that name."""
    place = Path(named).expanduser()
    for each in (place, place / "export", Path(runs).expanduser() / named / "export"):
        if (each / _ADAPTER).is_file():
            raise UserError(
                f"{field}: {each} holds an adapter; merge it into its base first, with "
                f"rlpost merge adapter={each}"
            )
        if (each / CONFIG).is_file():
            path = str(each.resolve())
            break
    else:
        path = locate_model(named, field=field)
    return ModelDirectory.read(path, field=field, kind=kind_of(Path(path)))


def _dtype(cfg: MergeConfig, recipe: Recipe) -> torch.dtype | None:
    chosen = cfg.merge.dtype
    if recipe.dtype is not None and chosen is not MergedDType.base:
        raise UserError(
            f"merge.dtype={chosen.value} and the dtype {recipe.dtype} in {recipe.place} both say "
            "what the result is written in; leave one out"
        )
    named = recipe.dtype or (None if chosen is MergedDType.base else chosen.value)
    return None if named is None else getattr(torch, named)


def _tokenizer(
    cfg: MergeConfig, recipe: Recipe, found: dict[str, ModelDirectory]
) -> ModelDirectory | None:
    """Return the model whose tokenizer is kept; None: neither options nor recipe name one."""
    named = cfg.merge.tokenizer or recipe.tokenizer
    if named is None:
        return None
    if named == "base" and recipe.base:
        named = recipe.base
    if named not in found:
        raise UserError(
            f"{recipe.place}: the tokenizer of {named!r:.200} is to be kept, which is none of the "
            f"models; give one of {', '.join(found)}"
        )
    return found[named]
