"""Puts an adapter into a loaded model, takes it out of the forward pass, and names its tensors.

Owns the use of peft's layers. Refuses to own what a kind is (registry.py and one file each), the
engine around the model and files (export.py). Invariants: a new adapter starts with the same
values on every rank; the base's own weights are not trained; parameters keep their names, with
peft's additions.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlpost.errors import UserError
from rlpost.foreign_output import quiet_bitsandbytes
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.read_errors import reading_model
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.base_weights import BaseWeights
from rlpost.training.adapters.config import NoAdapterConfig
from rlpost.training.adapters.directory import (
    OWN_NAMES,
    PREFIX,
    PROJECTIONS,
    PROMPT,
    AdapterDirectory,
)
from rlpost.training.adapters.registry import Companion, Setting, method_of
from rlpost.training.adapters.virtual_tokens import VirtualTokens
from rlpost.training.optimizers.build import GroupOptions

NAME = "default"  # peft's name of the one adapter of a model
_TASKS = {
    ModelKind.policy: "CAUSAL_LM",
    ModelKind.outcome: "SEQ_CLS",
    ModelKind.process: "TOKEN_CLS",
}


@dataclass(frozen=True, kw_only=True)
class LiveAdapter:
    """The adapter of a model that is trained, or that a frozen copy holds.

    Attributes:
        plan: what was decided.
        peft: its configuration, with the layers that were found.
        tuner: peft's own handle on the model.
        names: what a directory calls what begins with ``model.`` and ``score.`` here.
        companion: what the kind does beside its layers.
    """

    plan: Adaptation
    peft: Any
    tuner: Any
    names: Mapping[str, str]
    companion: Companion | None = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """Have the model be its base inside the block."""
        self.tuner.disable_adapter_layers()
        try:
            yield
        finally:
            self.tuner.enable_adapter_layers()

    @property
    def virtual(self) -> VirtualTokens | None:
        """What comes in front of every sequence now; None: nothing."""
        return self.tuner if isinstance(self.tuner, VirtualTokens) and self.tuner.num else None

    def group_of(self, name: str) -> GroupOptions:
        """Return how the updates of a parameter differ from those of others."""
        factors = method_of(self.plan.config).rate_factors
        return GroupOptions(rate=1.0 if factors is None else factors([name]).get(name, 1.0))

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """Return the live tensors of ``module`` that belong to the adapter, by name in its file.

        Those of a head that is not the model's own are among them. ZeRO-3 may hold parts only.
        """
        own = _own(module, self.tuner, self.names)
        return {n if n in OWN_NAMES else f"{PREFIX}{n}": tensor for n, tensor in own.items()}


def adapt(
    module: Any,
    plan: Adaptation,
    *,
    kind: ModelKind,
    names: Mapping[str, str],
    seed: int,
    total_steps: int,
    weights: BaseWeights,
) -> None:
    """Put an adapter into ``module``, a ``PackedModel`` with weights, as its ``adapter``.

    What is trained afterwards is the adapter, and the head where it is not the model's own.

    Args:
        module: loaded; ranks may have divided its weights.
        plan: what is put in.
        kind: what the model is used for.
        names: the prefixes of a ``Shell``.
        seed: of a new adapter's values.
        total_steps: optimizer updates of the run.
        weights: access to those of the base.

    Raises:
        UserError: a file cannot be read.
    """
    model = module.model
    setting = Setting(task_type=_TASKS[kind], total_steps=total_steps, weights=weights)
    if plan.merges is not None:
        _merge(module, AdapterDirectory.read(plan.merges), setting, names)
    if isinstance(plan.config, NoAdapterConfig):  # nothing is trained: a frozen copy
        return
    method = method_of(plan.config)
    directory = None if plan.continues is None else AdapterDirectory.read(plan.continues)
    if method.prepare is not None:
        method.prepare(model)
    with torch.random.fork_rng(devices=[]), weights.in_peft():
        torch.manual_seed(seed)
        peft, tuner = _inject(model, _peft_config(plan.config, directory, setting, names))
    for name, parameter in model.named_parameters():
        if tuner.prefix in name and parameter.is_floating_point():
            parameter.data = parameter.data.to(model.dtype)
    if directory is not None:
        _fill(_own(module, tuner, names), directory, weights)
    companion = None if method.companion is None else method.companion(module, setting)
    module.adapter = LiveAdapter(
        plan=plan, peft=peft, tuner=tuner, names=dict(names), companion=companion
    )


def rehearse_adapter(
    config: Any, *, directory: AdapterDirectory | None, base: ModelDirectory, kind: ModelKind
) -> int:
    """Put an adapter into a base without weights; returns how many parameters it trains.

    Args:
        config: options of its kind; not read where there is a directory.
        directory: whose tensors must fit; None: it is a new one.
        base: the model.
        kind: what it is used for.

    Raises:
        UserError: its layers are not there, or the tensors of ``directory`` are of other shapes.
    """
    shell = base.shell()
    model = shell if kind is ModelKind.policy else shell.get_decoder()
    place = next(name for name, module in shell.named_modules() if module is model)
    names = {"model.": f"{place}." if place else ""}
    setting = Setting(task_type=_TASKS[kind], total_steps=1, shapes_only=True)
    peft_config = _peft_config(config, directory, setting, names)
    field = "adapter.target_modules" if directory is None else directory.field
    _require_modules(model, peft_config, field=field)
    with reading_model(f"{field}: the adapter cannot be put on {base.path}"):
        _, tuner = _inject(model, peft_config, without_weights=True)
    if directory is not None:
        shapes = {n: tuple(t.shape) for n, t in _model_tensors(model, tuner, names).items()}
        _require_shapes(shapes, directory, base, inside=f"{place}." if place else "")
    return sum(math.prod(p.shape) for p in model.parameters() if p.requires_grad)


def _peft_config(
    config: Any, directory: AdapterDirectory | None, setting: Setting, names: Mapping[str, str]
) -> Any:
    """Return peft's configuration: of the options, or of an adapter that is there."""
    quiet_bitsandbytes()  # peft imports it
    if directory is None:
        return method_of(config).peft(setting)
    from peft import PeftConfig

    with reading_model(f"{directory.field}: {directory.path} cannot be understood"):
        read = PeftConfig.from_pretrained(str(directory.path))
    read.inference_mode = False
    for name, value in (
        ("init_lora_weights", True),
        ("lora_dropout", 0.0),
        ("vera_dropout", 0.0),
        ("save_projection", False),
    ):
        if hasattr(read, name):
            setattr(read, name, value)
    # A head is no module of the decoder that the adapter is put on.
    head = names.get("score.", "score.").removesuffix(".")
    whole = [each for each in getattr(read, "modules_to_save", None) or [] if each != head]
    read.modules_to_save = whole or None
    return read


def _inject(model: nn.Module, config: Any, *, without_weights: bool = False) -> tuple[Any, Any]:
    """Replace the layers of ``model``; returns peft's configuration, completed, and its handle."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    if config.is_prompt_learning:
        virtual = VirtualTokens(model, config)
        return virtual.config, virtual
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](
            model, config, adapter_name=NAME, low_cpu_mem_usage=without_weights
        )
    found = tuner.peft_config[NAME]
    found.target_modules = _condensed(model, tuner)
    return found, tuner


def _condensed(model: nn.Module, tuner: Any) -> list[str]:
    """Return the names of the layers that have the adapter, the last part where that says all."""
    targeted = set(tuner.targeted_module_names)
    last = {name.rsplit(".", 1)[-1] for name in targeted}
    others = {
        name.rsplit(".", 1)[-1]
        for name, _ in model.named_modules()
        if name not in targeted and not any(name.startswith(f"{each}.") for each in targeted)
    }
    return sorted(last if not last & others else targeted)


def _merge(
    module: Any, directory: AdapterDirectory, setting: Setting, names: Mapping[str, str]
) -> None:
    """Add an adapter's product to the weights of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model, weights = module.model, setting.weights
    with weights.in_peft():
        _, tuner = _inject(model, _peft_config(None, directory, setting, names))
    _fill(_own(module, tuner, names), directory, weights)
    for layer in [each for each in model.modules() if isinstance(each, BaseTunerLayer)]:
        with weights.whole(list(layer.get_base_layer().parameters())):
            layer.merge()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is nothing left to merge
        tuner.merge_and_unload()  # in place: every layer is replaced by its own base
    model.requires_grad_(True)


def _own(module: Any, tuner: Any, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of an adapter and of the head beside it, by name without ``PREFIX``."""
    found = _model_tensors(module.model, tuner, names)
    if module.score is not None:
        found |= {f"{names['score.']}{name}": p for name, p in module.score.named_parameters()}
    return found


def _model_tensors(model: nn.Module, tuner: Any, names: Mapping[str, str]) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    if isinstance(tuner, VirtualTokens):
        return {PROMPT: tuner.weight_NE}
    live = dict(model.named_parameters()) | dict(model.named_buffers())
    found = get_peft_model_state_dict(
        model, state_dict=live, adapter_name=NAME, save_embedding_layers=False
    )
    tensors = {f"{names['model.']}{name}": tensor for name, tensor in found.items()}
    if hasattr(tuner, "vera_A"):  # which no layer owns
        tensors |= zip(PROJECTIONS, (tuner.vera_A[NAME], tuner.vera_B[NAME]), strict=True)
    return tensors


@torch.no_grad()
def _fill(own: Mapping[str, Tensor], directory: AdapterDirectory, weights: BaseWeights) -> None:
    """Copy the tensors of a directory, which was checked, into a model that has them."""
    for name, tensor in directory.tensors().items():
        with weights.whole([own[name]]):
            own[name].copy_(tensor)


def _require_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    directory: AdapterDirectory,
    base: ModelDirectory,
    *,
    inside: str,
) -> None:
    """Refuse an adapter whose tensors are not those of the layers that it names.

    ``inside`` begins the names of what the adapter is put on; beside that it may have a head.
    """
    others = directory.shapes.keys() - shapes.keys()
    strange = sorted(name for name in others if name.startswith(inside))
    if strange:
        raise UserError(
            f"{directory.field}: {strange[0]} in {directory.path} belongs to no layer of "
            f"{base.path} on which its adapter_config.json puts an adapter, so it would be lost; "
            "use another copy of the adapter, or give its own base as model.path"
        )
    for name, shape in shapes.items():
        found = directory.shapes.get(name)
        if found != shape:
            raise UserError(
                f"{directory.field}: {name} in {directory.path} "
                f"{'is missing' if found is None else f'has the shape {found}'}, and {base.path} "
                f"needs {shape}: it is an adapter of another base; give its own as model.path"
            )


def _require_modules(model: Any, config: Any, *, field: str) -> None:
    """Refuse names of modules that are not there, or that no adapter is put on."""
    modules = dict(model.named_modules())
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    linear = sorted({p.rsplit(".", 1)[-1] for p, m in modules.items() if isinstance(m, nn.Linear)})
    whole = f"{field.removesuffix('.target_modules')}.modules_to_save"
    targets = getattr(config, "target_modules", None) or []
    wanted = [] if isinstance(targets, str) else [(field, name) for name in sorted(targets)]
    wanted += [(whole, name) for name in getattr(config, "modules_to_save", None) or []]
    for place, name in wanted:
        found = [m for path, m in modules.items() if path == name or path.endswith(f".{name}")]
        if not found:
            raise UserError(
                f"{place}: no module of {type(model).__name__} is called {name!r}; its linear "
                f"layers are {', '.join(linear)}"
            )
        is_end = any(id(module) in ends for module in found)
        if is_end and place == whole and getattr(model.config, "tie_word_embeddings", False):
            raise UserError(
                f"{place}: {name!r} is both the embedding and the output head of this model, of "
                "which only one would be trained; leave it out, or use adapter=none"
            )
        if is_end and place != whole:
            raise UserError(
                f"{place}: {name!r} is an embedding or the output head, and an adapter is put on "
                f"the linear layers between them; leave it out, or set {whole}=[{name}]"
            )
