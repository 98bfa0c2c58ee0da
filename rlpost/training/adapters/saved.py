"""An adapter in the form in which peft saves it: its configuration and its tensors by name.

Owns the meaning of the names, which peft's files and a live model's state share, and the scale of
a low-rank product. Refuses to own how a model is adapted, and conversions (plain_lora.py).
Invariant: the scale of a module is the one that peft computes.

Legend: r rank.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from rlpost.training.adapters.directory import OWN_NAMES, PREFIX, AdapterDirectory

_PARTS = (
    "lora_A.weight", "lora_B.weight", "lora_A", "lora_B", "lora_E", "lora_embedding_A",
    "lora_embedding_B", "lora_magnitude_vector", "vera_lambda_b", "vera_lambda_d",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SavedAdapter:
    """Example: ``SavedAdapter(config={"peft_type": "LORA", "r": 8, "lora_alpha": 16}, tensors={
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ..., ...})``
    """

    config: Mapping[str, Any]  # of adapter_config.json
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, directory: AdapterDirectory) -> "SavedAdapter":
        """Read the tensors into memory.

        Raises:
            UserError: the file cannot be read.
        """
        tensors = {
            name if name in OWN_NAMES else f"{PREFIX}{name}": tensor
            for name, tensor in directory.tensors().items()
        }
        return cls(config=directory.fields, tensors=tensors)

    @cached_property
    def modules(self) -> dict[str, dict[str, Tensor]]:
        """Module of the base -> part such as ``lora_A`` -> tensor, without shared projections."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            for part in _PARTS:
                if name.endswith(f".{part}"):
                    module = name.removeprefix(PREFIX).removesuffix(f".{part}")
                    found.setdefault(module, {})[part.removesuffix(".weight")] = tensor
                    break
        return found

    @cached_property
    def whole(self) -> dict[str, Tensor]:
        """Parameters of the base that the adapter replaces (``modules_to_save``), by their name."""
        parts = {f"{PREFIX}{module}." for module in self.modules}
        return {
            name.removeprefix(PREFIX): tensor
            for name, tensor in self.tensors.items()
            if name not in OWN_NAMES and not any(map(name.startswith, parts))
        }

    def rank(self, module: str) -> int:
        """Return the rank that the configuration gives to a module of LoRA."""
        return int(_matched(self.config.get("rank_pattern"), module) or self.config["r"])

    def scale(self, module: str) -> float:
        """Return the factor of a module's low-rank product.

        AdaLoRA divides by the initial rank, whatever rank is kept, and adds 1e-5 to it.
        """
        kind = self.config["peft_type"]
        alpha = _matched(self.config.get("alpha_pattern"), module) or self.config.get("lora_alpha")
        if kind == "ADALORA":
            initial = float(self.config["init_r"])
            return (alpha if alpha and alpha > 0 else initial) / (initial + 1e-5)
        if kind == "VERA":
            return 1.0
        assert alpha is not None
        rank = self.rank(module)
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))


def _matched(pattern: Any, module: str) -> Any:
    """Return the first value of a ``rank_pattern`` or ``alpha_pattern`` whose key matches."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return None
