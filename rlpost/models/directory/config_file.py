"""Reads ``config.json`` of a model directory: its architecture, and what it can be used for.

Owns the checks that need the config alone. Refuses to own weights (weight_files.py) and
tokenizers (tokenizer_files.py). Invariant: code that comes with a model is never run.
"""

from enum import Enum
from math import isnan
from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.models.directory.read_errors import reading_model
from rlpost.models.directory.weight_files import read_json_object

CONFIG = "config.json"
_ADAPTER = "adapter_config.json"


class ModelKind(Enum):
    """What a run uses a model for."""

    policy = "policy"
    critic = "critic"
    reward = "reward model"  # that judges
    outcome = "outcome reward model"  # that is trained, and the next
    process = "process reward model"

    @property
    def with_article(self) -> str:
        """Example: ``an outcome reward model``."""
        return f"{'an' if self.value[0] in 'aeiou' else 'a'} {self.value}"


_CLASSIFIERS = {
    ModelKind.critic: "ForSequenceClassification",
    ModelKind.outcome: "ForSequenceClassification",
    ModelKind.process: "ForTokenClassification",
}


def classifier_suffix(kind: ModelKind) -> str:
    """Return how transformers' classes of trained models of ``kind`` end."""
    return _CLASSIFIERS[kind]


def kind_of(directory: Path) -> ModelKind:
    """Return what a model directory's class is for: a policy, or a kind of reward model."""
    file = directory / CONFIG
    fields = read_json_object(file, field="model.path") if file.is_file() else {}
    names = fields.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    for kind in (ModelKind.outcome, ModelKind.process):
        if name.endswith(_CLASSIFIERS[kind]):
            return kind
    return ModelKind.policy


def _merged_by(kind: ModelKind, directory: Path) -> str:
    if kind is ModelKind.policy:
        return f"merge it with `rlpost merge adapter={directory}` and give the export"
    return "merge it with peft (merge_and_unload(), then save_pretrained())"


def read_config(directory: Path, *, field: str, kind: ModelKind) -> Any:
    """Return the ``transformers.PretrainedConfig`` of a directory that can be used as ``kind``.

    Args:
        directory: in Hugging Face layout.
        field: what an error calls it, such as ``model.path``.
        kind: what it is used for.

    Raises:
        UserError: there is no config, it is not understood, or the model is of another kind.
    """
    from transformers import AutoConfig

    file = directory / CONFIG
    if (directory / _ADAPTER).is_file():
        raise UserError(
            f"{field}: {directory / _ADAPTER} says that this is an adapter, and a whole model is "
            f"needed here; {_merged_by(kind, directory)}, or move that file away if the directory "
            "holds a whole model"
        )
    if not file.is_file():
        raise UserError(f"{field}: {_without_config(directory)}")
    fields = read_json_object(file, field=field)
    broken = [name for name, value in fields.items() if isinstance(value, float) and isnan(value)]
    if broken:
        raise UserError(
            f"{field}: `{broken[0]}` in {file} is not a number (NaN); copy the model's config.json "
            "again"
        )
    _refuse_unknown(fields, file, field=field)
    with reading_model(f"{field}: {file} cannot be understood"):
        config = AutoConfig.from_pretrained(str(directory), trust_remote_code=False)
        config.get_text_config()
    _refuse_other_kind(config, file, field=field, kind=kind)
    _refuse_impossible_sizes(config.get_text_config(), file, field=field)
    return config


def _without_config(directory: Path) -> str:
    if not any(directory.iterdir()):
        return f"{directory} is empty; copy the model's files there"
    return (
        f"{directory} has no {CONFIG}, so it is not a Hugging Face model directory; save the "
        "model there with save_pretrained()"
    )


def _refuse_unknown(fields: dict[str, Any], file: Path, *, field: str) -> None:
    from transformers import CONFIG_MAPPING

    model_type, architectures = fields.get("model_type"), fields.get("architectures")
    if not isinstance(model_type, str) or not model_type:
        raise UserError(
            f"{field}: {file} must name its `model_type`, got {model_type!r}; save the model "
            "again with save_pretrained()"
        )
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{field}: {file} is of the model type {model_type!r}, "
            + (
                "whose code comes with the model (`auto_map`); such code is never run here. Use "
                "a model that transformers itself implements"
                if fields.get("auto_map")
                else "which the installed transformers does not know; use another model, or a "
                "release of rlpost with a newer transformers"
            )
        )
    if not isinstance(architectures, list) or not architectures or not _all_text(architectures):
        raise UserError(
            f"{field}: {file} must name the model's class in `architectures`, got "
            f"{architectures!r}; save the model again with save_pretrained()"
        )
    text = fields.get("text_config")
    nested = text if isinstance(text, dict) else {}
    quantization = fields.get("quantization_config") or nested.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise UserError(
            f"{field}: {file} says that the weights are quantized ({method or 'method unknown'}), "
            "and quantized weights cannot be trained; use the model's unquantized checkpoint"
        )


def _all_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) and value for value in values)


def _refuse_other_kind(config: Any, file: Path, *, field: str, kind: ModelKind) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )

    name = config.architectures[0]
    classifier = name.endswith(tuple(_CLASSIFIERS.values()))
    if kind is ModelKind.reward:
        return  # training/reward/scorer.py checks reward models
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{field}: {name} of {file} is an encoder with a decoder, and "
            f"{kind.with_article} must be a decoder alone, such as Llama or Qwen"
        )
    if config.get_text_config() is not config:
        raise UserError(
            f"{field}: {name} of {file} also reads images or sound, and "
            f"{kind.with_article} must be a language model alone; save its language model by "
            "itself, or use another model"
        )
    if kind in _CLASSIFIERS and name.endswith(_CLASSIFIERS[kind]):
        return
    if name in CAUSAL.values() and name != CAUSAL.get(config.model_type):
        raise UserError(
            f"{field}: {file} names the class {name}, and its model type {config.model_type!r} is "
            f"{CAUSAL.get(config.model_type)}; the file is of two models, copy the whole model "
            "again"
        )
    if name not in CAUSAL.values():
        what = "a classifier or reward model" if classifier else "not a causal language model"
        own = f" or a Llama{_CLASSIFIERS[kind]}" if kind in _CLASSIFIERS else ""
        raise UserError(
            f"{field}: {name} of {file} is {what}, and {kind.with_article} starts from a causal "
            f"language model (a class such as LlamaForCausalLM){own}"
            f"{_other_loss(name, kind)}"
        )


def _other_loss(name: str, kind: ModelKind) -> str:
    """Return which loss trains the other kind of reward model that ``name`` is, if it is one."""
    for other, loss in ((ModelKind.process, "step"), (ModelKind.outcome, "bradley_terry")):
        learned = kind in (ModelKind.process, ModelKind.outcome) and kind is not other
        if learned and name.endswith(_CLASSIFIERS[other]):
            return f"; {other.with_article} is trained on with rlpost reward loss={loss}"
    return ""


def _refuse_impossible_sizes(config: Any, file: Path, *, field: str) -> None:
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        value = getattr(config, name, 1)  # rehearsal.py refuses models without attention
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"{field}: `{name}` in {file} must be a positive whole number, got {value!r}"
            )
