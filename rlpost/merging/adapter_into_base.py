"""An adapter and its base become one model, tensor by tensor.

Owns what can be merged, and the value of each tensor of the result. Refuses to own the arithmetic
of one module (training/adapters/merged_weight.py) and files (weights_file.py). Invariants: what
can be refused is refused before a weight is read; arithmetic is in float32 and each tensor is
rounded once; a tensor that the adapter leaves alone is copied bit by bit.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rlpost.errors import UserError
from rlpost.merging.weights_file import PlannedTensor
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import Shape, StoredTensor
from rlpost.training.adapters.directory import PROJECTIONS
from rlpost.training.adapters.foreign_config import require_finite, require_known_settings
from rlpost.training.adapters.merged_weight import merged_weight
from rlpost.training.adapters.saved import SavedAdapter

PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING")
_PARTS = {  # peft's types that change weights
    "LORA": {"lora_A", "lora_B"},
    "ADALORA": {"lora_A", "lora_B", "lora_E"},
    "VERA": {"vera_lambda_b", "vera_lambda_d"},
}

Requantise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class AdapterMerge:
    """A merge that passed every check.

    Example: ``AdapterMerge.plan(base, adapter, field="adapter")``
    """

    base: ModelDirectory
    adapter: SavedAdapter
    modules: Mapping[str, str]  # tensor in the base's files -> module whose weight it is
    whole: Mapping[str, Tensor]  # tensor in the base's files -> what takes its place
    dtype: torch.dtype | None  # of the result's floating-point tensors; None: as the base has them
    requantised: Mapping[str, Requantise]  # module -> what training saw of a weight kept in 4 bits

    @classmethod
    def plan(
        cls,
        base: ModelDirectory,
        adapter: SavedAdapter,
        *,
        field: str,
        dtype: torch.dtype | None = None,
        requantised: Mapping[str, Requantise] | None = None,
    ) -> "AdapterMerge":
        """Check that the adapter can be merged into the base.

        Args:
            base: a model without an adapter.
            adapter: as its files have it.
            field: what an error calls the adapter.
            dtype: of the result; None: the base's.
            requantised: see ``AdapterMerge``; also of modules that the adapter leaves alone.

        Raises:
            UserError: the adapter is of a kind that cannot be merged, or of another base.
        """
        shell = base.shell()
        parameters = {name: tuple(p.shape) for name, p in shell.named_parameters()}
        refuse_misfit(adapter, base, parameters, field=field)
        _refuse_other_whole(adapter, shell, parameters, base, field=field)
        changed = {*(f"{each}.weight" for each in adapter.modules), *adapter.whole}
        changed |= {f"{each}.weight" for each in requantised or {}}
        keys = {name: _key(base, name, shell, field=field) for name in changed}
        modules = {*adapter.modules, *(requantised or {})}
        return cls(
            base=base,
            adapter=adapter,
            modules={keys[f"{module}.weight"]: module for module in modules},
            whole={keys[name]: tensor for name, tensor in adapter.whole.items()},
            dtype=dtype,
            requantised=requantised or {},
        )

    @property
    def planned(self) -> list[PlannedTensor]:
        """The tensors of the result, in the order of the base's files."""
        return [
            PlannedTensor(name=name, dtype=self._dtype(tensor), shape=tensor.shape)
            for name, tensor in self.base.tensors.items()
        ]

    def _dtype(self, tensor: StoredTensor) -> torch.dtype:
        own = tensor.torch_dtype
        return own if self.dtype is None or not own.is_floating_point else self.dtype

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], Tensor]]:
        """Yield what returns a tensor of the result by its name; the base's files are open."""
        with ExitStack() as stack:
            files: dict[Path, Any] = {}

            def value(name: str) -> Tensor:
                tensor = self.base.tensors[name]
                if tensor.file not in files:
                    opened = safe_open(tensor.file, framework="pt")
                    files[tensor.file] = stack.enter_context(opened)
                return self._value(name, files[tensor.file].get_tensor(name)).to(
                    self._dtype(tensor)
                )

            yield value

    def _value(self, name: str, stored: Tensor) -> Tensor:
        if name in self.whole:
            return self.whole[name]
        module = self.modules.get(name)
        if module is None:
            return stored
        seen = self.requantised[module](stored) if module in self.requantised else stored
        if module not in self.adapter.modules:
            return seen
        return merged_weight(self.adapter, module, seen)


def refuse_misfit(
    adapter: SavedAdapter, base: ModelDirectory, parameters: Mapping[str, Shape], *, field: str
) -> None:
    """Refuse an adapter that is of another kind or base, or damaged.

    ``parameters`` are the shapes of the base's own.

    Raises:
        UserError: says which, and the way out.
    """
    _refuse_kind(adapter, field=field)
    require_finite(adapter.tensors, field=field)
    _refuse_other_modules(adapter, parameters, base, field=field)


def refuse_prompts(config: Mapping[str, Any], *, field: str) -> None:
    """Refuse an adapter that changes no weight, by its configuration.

    Raises:
        UserError: it only adds tokens in front of a prompt.
    """
    kind = str(config.get("peft_type"))
    if kind in PROMPTS:
        raise UserError(
            f"{field}: {kind} adds tokens in front of a prompt and changes no weight, so it cannot "
            "be merged; use it with peft, or train one that can, such as adapter=lora"
        )


def _refuse_kind(adapter: SavedAdapter, *, field: str) -> None:
    """Refuse what is no change of weights, or changes them in a way that is not known here."""
    config, kind = adapter.config, str(adapter.config.get("peft_type"))
    if kind not in _PARTS:
        raise UserError(
            f"{field}: adapters of the type {kind} are not known here, which are "
            f"{', '.join(_PARTS)}; merge it with peft: merge_and_unload(), then save_pretrained()"
        )
    require_known_settings(config, field=field)
    known = _PARTS[kind] | ({"lora_magnitude_vector"} if config.get("use_dora") else set())
    parts = {part for own in adapter.modules.values() for part in own}
    bias = config.get("bias") or "none"
    if bias != "none" or parts != known:
        what = f"the setting bias={bias!r:.100}"
        what = what if bias != "none" else f"the parts {', '.join(sorted(parts))}"
        raise UserError(
            f"{field}: it has {what}, which cannot be merged here; merge it with peft: "
            "merge_and_unload(), then save_pretrained()"
        )
    missing = [module for module, own in adapter.modules.items() if own.keys() != known]
    if missing:
        raise UserError(
            f"{field}: it lacks {', '.join(sorted(known - adapter.modules[missing[0]].keys()))} of "
            f"{missing[0]}; copy the adapter again"
        )


def _refuse_other_modules(
    adapter: SavedAdapter, parameters: Mapping[str, Shape], base: ModelDirectory, *, field: str
) -> None:
    """Refuse an adapter whose modules are not there or have other shapes."""
    for module, parts in adapter.modules.items():
        weight = parameters.get(f"{module}.weight")
        found = "lacks it" if weight is None else f"has {'x'.join(map(str, weight))} there"
        shape = weight or ()
        if adapter.config.get("fan_in_fan_out"):
            shape = shape[::-1]
        if len(shape) != 2 or not _fits(adapter, parts, outputs=shape[0], inputs=shape[1]):
            raise UserError(
                f"{field}: it changes {module}, and {base.path} {found}: it is an adapter of "
                "another base; give its own as model.path"
            )


def _fits(adapter: SavedAdapter, parts: Mapping[str, Tensor], *, outputs: int, inputs: int) -> bool:
    if adapter.config["peft_type"] == "VERA":
        first, second = (adapter.tensors.get(name) for name in PROJECTIONS)
        if first is None or second is None:
            return False
        ranks = {len(parts["vera_lambda_d"]), first.shape[0], second.shape[1]}
        fits = first.shape[1] >= inputs and second.shape[0] >= outputs
        return fits and len(ranks) == 1 and len(parts["vera_lambda_b"]) == outputs
    a, b = parts["lora_A"], parts["lora_B"]
    return a.shape[1] == inputs and b.shape[0] == outputs and a.shape[0] == b.shape[1]


def _refuse_other_whole(
    adapter: SavedAdapter,
    shell: Any,
    parameters: Mapping[str, Shape],
    base: ModelDirectory,
    *,
    field: str,
) -> None:
    """Refuse weights that replace some of the base's, where there are none or they are shared."""
    ends = (shell.get_input_embeddings(), shell.get_output_embeddings())
    tied = bool(getattr(shell.config.get_text_config(), "tie_word_embeddings", False))
    shared = {id(end.weight) for end in ends if end is not None} if tied else set()
    named = dict(shell.named_parameters(remove_duplicate=False))
    for name, tensor in adapter.whole.items():
        if name in named and id(named[name]) in shared:
            raise UserError(
                f"{field}: it replaces {name}, which is both the embedding and the output head of "
                f"{base.path}, so the result would be another model; use it without merging it"
            )
        if parameters.get(name) != tuple(tensor.shape):
            raise UserError(
                f"{field}: it holds {name} ({'x'.join(map(str, tensor.shape))}), for which "
                f"{base.path} has no place: it is an adapter of another base, or one of a reward "
                "model; use it with peft"
            )


def _key(base: ModelDirectory, name: str, shell: Any, *, field: str) -> str:
    """Return what the base's files call a parameter of the model."""
    for key in (name, name.removeprefix(f"{shell.base_model_prefix}.")):
        if key in base.tensors:
            return key
    raise UserError(
        f"{field}: it changes {name}, which the files in {base.path} have in another form, so it "
        "cannot be merged into them; merge it with peft: merge_and_unload(), then save_pretrained()"
    )
