"""What a pushed adapter consists of, and which one is refused before an engine sees it.

Owns the names of peft's files and the shapes they must have on the model that receives them.
Refuses to own how an engine applies them (vllm_adapters.py). Invariant: what passes is made of
whole pairs, each as wide as its layer and as deep as the rank that the configuration says; whether
it computes what the trainer computes is for the probe to say (bus.py).
"""

import re
from collections.abc import Mapping
from typing import Any

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest, Shape

PREFIX = "base_model.model."
_TENSOR = re.compile(re.escape(PREFIX) + r"(?P<layer>.+)\.lora_(?P<side>[AB])\.weight$")


def tensor_name(layer: str, side: str) -> str:
    """Return the name that peft's files give to matrix ``A`` or ``B`` of a layer."""
    return f"{PREFIX}{layer}.lora_{side}.weight"


def rank_of(layer: str, adapter: Mapping[str, Any]) -> int:
    """Return the rank of a layer: of the first pattern that its name ends with, else ``r``."""
    for pattern, rank in (adapter.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return int(rank)
    return int(adapter["r"])


def adaptable(model: Mapping[str, Shape]) -> list[str]:
    """Return the last names of the layers that may have an adapter: linear ones of the blocks.

    Embeddings and the head are none of them: with an adapter of the head vLLM cannot score
    prompts, and a probe is one. Nor are the experts of a mixture, which are no layers to peft.
    """
    matrices = (name.split(".") for name, shape in model.items() if len(shape) == 2)
    return sorted(
        {
            parts[-2]
            for parts in matrices
            if parts[-1] == "weight"
            and "experts" not in parts
            and any(part.isdecimal() for part in parts)
        }
    )


def refuse_other_adapter(manifest: PushManifest, model: Mapping[str, Shape]) -> None:
    """Compare an adapter with its own configuration and with the layers that it adapts.

    Args:
        manifest: of kind ``adapter``.
        model: shapes of the checkpoint; layers that have another name in it are not compared.

    Raises:
        WeightPushError: a tensor is no part of a LoRA adapter, half of a pair is missing, or one
            is misshapen; names it.
    """
    assert manifest.adapter is not None, manifest.kind
    shapes: dict[str, dict[str, Shape]] = {}
    for entry in manifest.entries:
        match = _TENSOR.match(entry.name)
        if match is None:
            raise WeightPushError(
                f"version {manifest.version}: {entry.name} is no matrix of a LoRA adapter"
            )
        shapes.setdefault(match["layer"], {})[match["side"]] = entry.shape
    if not shapes:
        raise WeightPushError(f"version {manifest.version} is an adapter without a tensor")
    for layer, pair in shapes.items():
        for side in "AB":
            if side not in pair:
                raise WeightPushError(
                    f"version {manifest.version}: {tensor_name(layer, side)} is missing"
                )
        rank = rank_of(layer, manifest.adapter)
        # An engine would pad a matrix that is too small with zeros, without a word.
        width, depth = model.get(f"{layer}.weight", (pair["B"][0], pair["A"][-1]))
        for side, wanted in (("A", (rank, depth)), ("B", (width, rank))):
            if pair[side] != wanted:
                raise WeightPushError(
                    f"version {manifest.version}: {tensor_name(layer, side)} has shape "
                    f"{pair[side]}, rank {rank} of this layer needs {wanted}"
                )
