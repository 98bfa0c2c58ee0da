"""Everything a merge needs to know before anything is written.

Owns the search for adapter and base, and the choice of what the result is compared on. Refuses to
own what can be merged (merging/). Invariant: everything that can be refused is refused here.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from rlpost.errors import UserError
from rlpost.evaluation.suites.catalog import SUITES
from rlpost.merging.adapter_into_base import AdapterMerge, refuse_prompts
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import read_json_object
from rlpost.models.export import try_export
from rlpost.models.fingerprint import fingerprint_of
from rlpost.models.locate import locate_model
from rlpost.stages.merge.config import MergeConfig, MergedDType
from rlpost.stages.run_directory import RunDirectory
from rlpost.training.adapters.directory import CONFIG, AdapterDirectory
from rlpost.training.adapters.four_bit import requantised
from rlpost.training.adapters.saved import SavedAdapter

_FIELD = "adapter"


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """A merge that passed every check."""

    cfg: MergeConfig
    merge: AdapterMerge
    adapter: AdapterDirectory
    base_name: str  # as the user, or the adapter, calls it
    sequences: list[list[int]]  # token ids on which the result is compared


def prepare(cfg: MergeConfig, *, directory: RunDirectory) -> MergePlan:
    """Check everything that can be checked before a weight is read.

    Raises:
        UserError: the run's directory is taken, or adapter and base cannot be merged.
    """
    directory.refuse_strangers()
    if directory.holds_a_run or directory.export.exists():
        raise UserError(
            f"run.name: {directory.root} holds a run or a merged model already; choose another "
            "run.name, or move it away"
        )
    assert cfg.adapter is not None
    place = _adapter_directory(cfg.adapter, cfg.run.dir)
    refuse_prompts(read_json_object(place / CONFIG, field=_FIELD), field=_FIELD)
    adapter = AdapterDirectory.read(place, field=_FIELD)
    name = cfg.model.path or adapter.base
    if name is None:
        raise UserError(f"model.path: {adapter.path / CONFIG} names no base; give model.path=BASE")
    base = ModelDirectory.read(locate_model(name))
    adapter.require_base(base.path, fingerprint_of(base.tensors), name=name)
    if not cfg.merge.dequantize and not adapter.four_bit:
        raise UserError(
            "merge.dequantize=false has no effect: the adapter did not learn on 4-bit weights, as "
            "far as its files say; leave it out"
        )
    dtype = cfg.merge.dtype
    merge = AdapterMerge.plan(
        base,
        SavedAdapter.read(adapter),
        field=_FIELD,
        requantised=requantised(base.shell()) if adapter.four_bit and cfg.merge.dequantize else {},
        dtype=None if dtype is MergedDType.base else getattr(torch, dtype.value),
    )
    tokenizer = base.tokenizer()
    try_export(base)
    texts = [item.prompt for item in SUITES["general"].held_out()]
    texts = texts[: cfg.merge.drift_prompts]
    return MergePlan(
        cfg=cfg,
        merge=merge,
        adapter=adapter,
        base_name=name,
        sequences=[ids for text in texts if len(ids := tokenizer(text)["input_ids"]) > 1],
    )


def _adapter_directory(named: str, runs: str) -> Path:
    """Return where the adapter's files are: there, in that run, or in the run of that name."""
    place = Path(named).expanduser()
    for each in (place, place / "export", Path(runs).expanduser() / named / "export"):
        if (each / CONFIG).is_file():
            return each
    if (place / "export").is_dir():
        raise UserError(
            f"{_FIELD}: the run in {place} trained a whole model, which needs no merging; use "
            f"{place / 'export'}"
        )
    raise UserError(
        f"{_FIELD}: {named!r} is neither an adapter's directory, which has {CONFIG}, nor a run "
        "that trained one; give adapter=DIR, for example adapter=runs/sft"
    )
