"""Whether the engine can serve an adapter, and the plain LoRA that it gets of it.

Owns the refusals, each with its way out. Refuses to own files (training/adapters/directory.py), the
conversions (plain_lora.py) and the proof (proof.py). Invariant: an adapter that passes is made of
whole pairs of matrices for layers that the engine adapts, each as its base needs it; shapes are
compared before a tensor is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.merging.adapter_into_base import PROMPTS, refuse_misfit
from rlpost.models.directory.read_errors import reading_model
from rlpost.models.directory.tokenizer_files import has_tokenizer
from rlpost.stages.named_adapter import require_loadable
from rlpost.stages.serve.base import ServedBase
from rlpost.training.adapters.directory import AdapterDirectory
from rlpost.training.adapters.foreign_config import require_known_settings
from rlpost.training.adapters.plain_lora import converts, is_plain, served_rank, to_lora
from rlpost.training.adapters.saved import SavedAdapter


@dataclass(frozen=True, kw_only=True)
class Servable:
    """An adapter that passed every check that needs no engine."""

    directory: AdapterDirectory
    plain: SavedAdapter  # what the engine gets

    @property
    def about(self) -> dict[str, Any]:
        """Return what a client that lists adapters is told of this one."""
        fields = self.directory.fields
        converted = "" if is_plain(fields) else ", converted to the plain LoRA that it equals"
        note = {"note": "learned on 4-bit weights, served on the original ones"}
        return {
            "path": str(self.directory.path),
            "kind": f"{_kind(fields)}{converted}",
            "rank": served_rank(self.plain.config),
            **(note if self.directory.four_bit else {}),
        }


def read_servable(place: Path, *, base: ServedBase, rank: int | None, field: str) -> Servable:
    """Read an adapter and check it against the base.

    Args:
        place: its directory.
        base: what it is served on.
        rank: the largest that the engine holds; None: whatever an engine can hold.
        field: what an error calls it.

    Raises:
        UserError: the engine cannot serve it, or not on this base; says why, and the way out.
    """
    adapter = AdapterDirectory.read(place, field=field)
    _refuse_kind(adapter)
    adapter.require_base(base.directory.path, base.fingerprint, name=base.name)
    require_loadable(adapter, base.directory)
    _require_rank(adapter, rank)
    _refuse_other_text(adapter, base)
    saved = SavedAdapter.read(adapter)
    parameters = {name: tuple(p.shape) for name, p in base.directory.shell().named_parameters()}
    refuse_misfit(saved, base.directory, parameters, field=field)
    _refuse_other_layers(saved, base, field=field)
    swapped = bool(adapter.fields.get("fan_in_fan_out"))
    inputs = {name: parameters[f"{name}.weight"][0 if swapped else 1] for name in saved.modules}
    return Servable(directory=adapter, plain=to_lora(saved, inputs=inputs))


def _kind(fields: Mapping[str, Any]) -> str:
    return "rsLoRA" if fields.get("use_rslora") else str(fields["peft_type"])


def _refuse_kind(adapter: AdapterDirectory) -> None:
    """Refuse what is no sum of products beside linear layers of a model that writes text."""
    fields, field = adapter.fields, adapter.field
    kind = str(fields.get("peft_type"))
    if kind in PROMPTS:
        raise UserError(
            f"{field}: {kind} puts tokens in front of a prompt, and the engine serves adapters of "
            "weights; use it with peft, or train one that can be served, such as adapter=lora"
        )
    task = fields.get("task_type")
    if task not in (None, "", "CAUSAL_LM"):
        raise UserError(
            f"{field}: it was made for task_type={task!a:.50}, and a server answers with text; use "
            "it with peft, or a reward model's as reward_models.NAME.path of rlpost rl"
        )
    merge = f"merge it with `rlpost merge adapter={adapter.path}` and serve the export"
    if fields.get("use_dora"):
        raise UserError(
            f"{field}: it is DoRA (use_dora), which scales the rows of each weight beside adding "
            f"to it, and the engine only adds; {merge} as model.path"
        )
    if fields.get("modules_to_save"):
        raise UserError(
            f"{field}: it replaces whole modules (modules_to_save="
            f"{fields['modules_to_save']!r:.100}), and the engine only adds to weights; {merge} as "
            "model.path"
        )
    require_known_settings(fields, field=field)
    if not converts(fields):
        raise UserError(
            f"{field}: the engine serves LoRA, rsLoRA, AdaLoRA and VeRA without biases, and this "
            f"is {kind} with bias={fields.get('bias') or 'none'!r:.50}; merge it with peft: "
            "merge_and_unload(), then save_pretrained(), and serve the result as model.path"
        )


def _require_rank(adapter: AdapterDirectory, rank: int | None) -> None:
    found = served_rank(adapter.fields)
    if rank is not None and found > rank:
        raise UserError(
            f"{adapter.field}: it has the rank {found}, and the engine was built for "
            f"serve.max_rank={rank}; raise that, or merge it with "
            f"`rlpost merge adapter={adapter.path}` and serve the export as model.path"
        )


def _refuse_other_layers(saved: SavedAdapter, base: ServedBase, *, field: str) -> None:
    others = sorted(name for name in saved.modules if name.rpartition(".")[2] not in base.layers)
    if others:
        raise UserError(
            f"{field}: it adapts {others[0]}, and the engine adapts the linear layers of the "
            f"blocks: {', '.join(base.layers)}; train it on those, or merge it with rlpost merge"
        )


def _refuse_other_text(adapter: AdapterDirectory, base: ServedBase) -> None:
    """Refuse a tokenizer or a chat template beside the adapter that would not be used."""
    place, field = adapter.path, adapter.field
    if not has_tokenizer(place):
        return
    from transformers import AutoTokenizer

    with reading_model(f"{field}: the tokenizer in {place} cannot be read"):
        own = AutoTokenizer.from_pretrained(str(place), trust_remote_code=False)
        same = own.get_vocab() == base.tokenizer.get_vocab()
    if not same:
        raise UserError(
            f"{field}: the tokenizer in {place} has other tokens than the base, whose tokenizer "
            "reads every prompt; use an adapter of this base, or remove the tokenizer's files if "
            "they came there by mistake"
        )
    if own.chat_template is not None and own.chat_template != base.chat_template:
        raise UserError(
            f"{field}: {place} has another chat template than the one that the server uses for "
            "base and adapters, so it would be asked in words that it did not learn on; start the "
            "server with serve.chat_template=FILE if all have that one, or remove the template "
            "from the adapter's directory"
        )
