"""Several adapters added to one: the plan, and the files of the result.

Owns the search for the adapters and their base. Refuses to own the sum (merging/). Invariant:
everything that can be refused is refused by ``prepare_adapters``.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from rlpost.checkpoint.state import write_text
from rlpost.errors import UserError
from rlpost.merging.adapters_together import AdapterSum
from rlpost.models.card import write_model_card
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.fingerprint import fingerprint_of
from rlpost.models.locate import locate_model
from rlpost.models.origin import ModelOrigin, ModelUsed
from rlpost.stages.merge.config import MergeConfig
from rlpost.stages.merge.table import REPORT, measured_table
from rlpost.stages.named_adapter import adapter_directory, require_loadable
from rlpost.stages.run_directory import RunDirectory
from rlpost.training.adapters.directory import CONFIG, AdapterDirectory
from rlpost.training.adapters.export import write_saved

_FIELD = "merge.models"


@dataclass(frozen=True, kw_only=True)
class AdaptersPlan:
    """A sum of adapters that passed every check."""

    method: str
    sum: AdapterSum
    base: ModelDirectory
    base_name: str
    base_fingerprint: str
    models: tuple[ModelUsed, ...]

    @property
    def size_bytes(self) -> int:
        """At most, of the tensors of the result."""
        every = [t for each in self.sum.adapters.values() for t in each.tensors.values()]
        return 4 * len(self.sum.adapters) * sum(tensor.numel() for tensor in every)

    def write(self, scratch: Path, *, directory: RunDirectory, settings_hash: str) -> str:
        """Write the adapter into ``scratch``, and the report; return what to tell the person."""
        adapter, error = self.sum.merged()
        config = {
            **adapter.config,
            "base_model_name_or_path": self.base_name,
            "inference_mode": True,
        }
        write_saved(
            scratch,
            type(adapter)(config=config, tensors=adapter.tensors),
            base=self.base_fingerprint,
            four_bit=self.sum.four_bit,
            tokenizer_path=self.base.path,
        )
        measures = self.sum.measures()
        rank = int(adapter.config["r"])
        self._write_card(scratch, directory, settings_hash, error=error)
        record = {"method": self.method, "rank": rank, "relative_error": error}
        record |= {"weights": list(self.sum.weights), **measures.record()}
        write_text(directory.root / REPORT, json.dumps(record, indent=1) + "\n")
        lost = "exact" if self.sum.rank is None else f"relative error {error:.3g}"
        return f"{measured_table(measures)}\nrank {rank}, {lost}"

    def _write_card(
        self, scratch: Path, directory: RunDirectory, settings_hash: str, *, error: float
    ) -> None:
        origin = ModelOrigin(
            base=self.base_name,
            stage="merge",
            run=directory.root.name,
            step=0,
            run_step=0,
            config_hash=settings_hash,
            how=f"with {len(self.sum.adapters)} adapters added by {self.method}",
            models=self.models,
            results={"merge/relative_error": error},
        )
        write_model_card(scratch, origin, location=directory.export)


def prepare_adapters(cfg: MergeConfig) -> AdaptersPlan:
    """Check everything that can be checked before anything is written.

    Raises:
        UserError: the adapters cannot be added.
    """
    settings = cfg.merge
    assert settings.method is not None
    found = {
        name: AdapterDirectory.read(
            adapter_directory(name, cfg.run.dir, field=_FIELD), field=_FIELD
        )
        for name in settings.models
    }
    if len(found) < max(2, len(settings.models)):
        raise UserError(
            f"merge.models must name at least two adapters, each once, got {settings.models}; one "
            "alone is merged into its base with adapter=DIR"
        )
    first = next(iter(found.values()))
    named = cfg.model.path or first.base
    if named is None:
        raise UserError(f"model.path: {first.path / CONFIG} names no base; give model.path=BASE")
    base = ModelDirectory.read(locate_model(named))
    fingerprint = fingerprint_of(base.tensors)
    for each in found.values():
        each.require_base(base.path, fingerprint, name=named)
        require_loadable(each, base)
    weights = settings.weights or [1.0] * len(found)
    return AdaptersPlan(
        method=settings.method,
        sum=AdapterSum.plan(found, base, weights=weights, rank=settings.rank),
        base=base,
        base_name=named,
        base_fingerprint=fingerprint,
        models=(
            ModelUsed(name=named, role="base", fingerprint=fingerprint),
            *(
                ModelUsed(name=name, role="adapter", fingerprint=each.fingerprint())
                for name, each in found.items()
            ),
        ),
    )
