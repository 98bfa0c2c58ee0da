"""An adapter merged into its base: the plan, the files of the result and the comparison.

Owns the search for adapter and base, and the choice of what the result is compared on. Refuses to
own what can be merged (merging/). Invariant: everything that can be refused is refused by
``prepare_adapter``.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from rlpost.errors import RunFailed, UserError
from rlpost.evaluation.suites.catalog import SUITES
from rlpost.merging.adapter_into_base import AdapterMerge, refuse_prompts
from rlpost.merging.drift import LogprobDrift, measure_drift
from rlpost.merging.weights_file import write_weights
from rlpost.models.card import write_model_card
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import read_json_object
from rlpost.models.export import try_export, write_model_shell
from rlpost.models.fingerprint import fingerprint_of
from rlpost.models.locate import locate_model
from rlpost.models.origin import ModelOrigin, export_record
from rlpost.stages.merge.config import MergeConfig, MergedDType
from rlpost.stages.named_adapter import adapter_directory, require_loadable
from rlpost.stages.run_directory import RunDirectory
from rlpost.training.adapters.directory import CONFIG, AdapterDirectory
from rlpost.training.adapters.four_bit import requantised
from rlpost.training.adapters.saved import SavedAdapter

_FIELD = "adapter"
_MOST_DRIFT = 1.0  # nats; rounding to 16 bits costs some hundredths


@dataclass(frozen=True, kw_only=True)
class MergeableAdapter:
    """An adapter that can become one model with its base.

    Example: ``MergeableAdapter.find("runs/sft", base="smollm2-135m-instruct", runs="runs",
    field="adapter").write(Path("merged"))``
    """

    merge: AdapterMerge
    adapter: AdapterDirectory
    base_name: str  # as the user, or the adapter, calls it

    @classmethod
    def find(
        cls,
        named: str,
        *,
        base: str | None,
        runs: str,
        field: str,
        dtype: MergedDType = MergedDType.base,
        dequantize: bool = True,
    ) -> "MergeableAdapter":
        """Check everything that can be checked before a weight is read.

        Args:
            named: the adapter's directory, or a run that trained one, or such a run's name.
            base: what it is merged into; None: what the adapter names.
            runs: the directory of runs.
            field: what an error calls the adapter.
            dtype: of the result.
            dequantize: merge into what the base's weights stand for in 4 bits, if training saw it.

        Raises:
            UserError: adapter and base cannot be merged.
        """
        place = adapter_directory(named, runs, field=field)
        refuse_prompts(read_json_object(place / CONFIG, field=field), field=field)
        adapter = AdapterDirectory.read(place, field=field)
        name = base or adapter.base
        if name is None:
            raise UserError(
                f"model.path: {adapter.path / CONFIG} names no base; give model.path=BASE"
            )
        model = ModelDirectory.read(locate_model(name))
        adapter.require_base(model.path, fingerprint_of(model.tensors), name=name)
        if not dequantize and not adapter.four_bit:
            raise UserError(
                "merge.dequantize=false has no effect: the adapter did not learn on 4-bit weights, "
                "as far as its files say; leave it out"
            )
        merge = AdapterMerge.plan(
            model,
            SavedAdapter.read(adapter),
            field=field,
            requantised=requantised(model.shell()) if adapter.four_bit and dequantize else {},
            dtype=None if dtype is MergedDType.base else getattr(torch, dtype.value),
        )
        require_loadable(adapter, model)
        return cls(merge=merge, adapter=adapter, base_name=name)

    @property
    def size_bytes(self) -> int:
        """Of the weights of the result."""
        return sum(each.size_bytes for each in self.merge.planned)

    def write(self, directory: Path) -> None:
        """Write the model, with its base's tokenizer."""
        base = self.merge.base
        write_model_shell(base.shell(dtype=self.merge.dtype), directory, start=base.path)
        with self.merge.opened() as value_of:
            write_weights(directory, self.merge.planned, value_of)


@dataclass(frozen=True, kw_only=True)
class AdapterPlan:
    """A merge of an adapter that passed every check."""

    found: MergeableAdapter
    sequences: list[list[int]]  # token ids on which the result is compared

    @property
    def size_bytes(self) -> int:
        """Of the weights of the result."""
        return self.found.size_bytes

    def write(self, scratch: Path, *, directory: RunDirectory, settings_hash: str) -> str:
        """Write the result into ``scratch`` and return what to tell the person.

        Raises:
            RunFailed: the result is not what base and adapter are together.
        """
        self.found.write(scratch)
        drift = self._measured(scratch)
        self._write_card(scratch, directory, drift, settings_hash)
        return "" if drift is None else str(drift)

    def _measured(self, directory: Path) -> LogprobDrift | None:
        """Return how far the result is from what it was made of; None: the check is off."""
        if not self.sequences:
            return None
        drift = measure_drift(
            self.found.merge.base.path,
            self.found.adapter.path,
            directory,
            self.sequences,
            requantised=self.found.merge.requantised,
        )
        if not drift.mean < _MOST_DRIFT:
            raise RunFailed(
                f"the merged model is not what base and adapter are together: {drift}; nothing was "
                "kept. Use merge.dtype=float32, or the adapter without merging it"
            )
        return drift

    def _write_card(
        self,
        scratch: Path,
        directory: RunDirectory,
        drift: LogprobDrift | None,
        settings_hash: str,
    ) -> None:
        path = self.found.adapter.path
        record = export_record(path)
        results = {} if drift is None else {"merge/logprob_drift_mean": drift.mean}
        origin = ModelOrigin(
            base=self.found.base_name if record is None else str(path),
            stage="merge",
            run=directory.root.name,
            step=0 if record is None else record["step"],
            run_step=0 if record is None else record["run_step"],
            config_hash=settings_hash,
            results=results,
            how=f"with the adapter {path} merged in",
        )
        write_model_card(scratch, origin, location=directory.export, measured=drift and str(drift))


def prepare_adapter(cfg: MergeConfig) -> AdapterPlan:
    """Check everything that can be checked before a weight is read.

    Raises:
        UserError: adapter and base cannot be merged.
    """
    assert cfg.adapter is not None
    found = MergeableAdapter.find(
        cfg.adapter,
        base=cfg.model.path,
        runs=cfg.run.dir,
        field=_FIELD,
        dtype=cfg.merge.dtype,
        dequantize=cfg.merge.dequantize,
    )
    base = found.merge.base
    tokenizer = base.tokenizer()
    try_export(base)
    texts = [item.prompt for item in SUITES["general"].held_out()]
    texts = texts[: cfg.merge.drift_prompts]
    return AdapterPlan(
        found=found,
        sequences=[ids for text in texts if len(ids := tokenizer(text)["input_ids"]) > 1],
    )
