"""Exact conversions of other kinds of adapters to plain LoRA, which every engine serves.

Owns the algebra. Refuses to own which kind is served in which way (serving.py). Invariants: the
result computes the same function within rounding; each module has the same rank and the scale 1
where anything had to be converted, because engines pack modules that have one rank. Nothing here
depends on the values of the tensors, so shapes can be had on torch's meta device.

Sources: AdaLoRA, https://arxiv.org/abs/2303.10512; VeRA, https://arxiv.org/abs/2310.11454; PiSSA,
https://arxiv.org/abs/2404.02948.

Legend: r rank, I inputs, O outputs of a module.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlpost.training.adapters.directory import PREFIX, PROJECTIONS
from rlpost.training.adapters.saved import SavedAdapter

Product = tuple[Tensor, Tensor]  # (A_rI, B_Or) of the change B @ A

# What peft knows of a plain LoRA; other keys of a converted adapter mean something else to it.
_KEPT = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "inference_mode")


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether an adapter is LoRA or rsLoRA with one rank and one scale for all modules."""
    other = ("use_dora", "rank_pattern", "alpha_pattern")
    return config["peft_type"] == "LORA" and not any(config.get(name) for name in other)


def converts(config: Mapping[str, Any]) -> bool:
    """Whether ``to_lora`` can convert an adapter of that configuration."""
    if config.get("modules_to_save") or config.get("bias", "none") != "none":
        return False
    kind = config["peft_type"]
    return kind in ("ADALORA", "VERA") or (kind == "LORA" and not config.get("use_dora"))


def served_rank(config: Mapping[str, Any]) -> int:
    """Return the rank of the plain LoRA that an adapter becomes."""
    if config["peft_type"] == "ADALORA":
        return int(config["init_r"])
    return max(int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()), 1)


def to_lora(adapter: SavedAdapter, *, inputs: Mapping[str, int] | None = None) -> SavedAdapter:
    """Return the plain LoRA that computes the same as ``adapter``, itself if it is one.

    The tensors keep their dtype. ``converts(adapter.config)`` must hold.

    Args:
        adapter: of any such kind.
        inputs: module -> its input features; VeRA needs it, because its tensors do not say.
    """
    assert converts(adapter.config), f"{adapter.config['peft_type']} cannot be converted exactly"
    if is_plain(adapter.config):
        return adapter
    products = {
        module: product(adapter, module, inputs=(inputs or {}).get(module))
        for module in adapter.modules
    }
    return _plain(adapter.config, products, rank=served_rank(adapter.config))


def difference(adapter: SavedAdapter, start: SavedAdapter) -> SavedAdapter:
    """Return the LoRA that adds what ``adapter`` adds, less what ``start`` adds.

    This is what PiSSA learned, on the original base: its own adapter belongs to a base from which
    ``start``, its first value, was subtracted. Both are plain; the rank is twice theirs.
    """
    assert is_plain(adapter.config) and adapter.modules.keys() == start.modules.keys()
    products = {}
    for module in adapter.modules:
        (a, b), (a_start, b_start) = product(adapter, module), product(start, module)
        products[module] = torch.cat([a, a_start]), torch.cat([b, -b_start], dim=1)
    return _plain(adapter.config, products, rank=2 * served_rank(adapter.config))


def product(adapter: SavedAdapter, module: str, *, inputs: int | None = None) -> Product:
    """Return ``A`` (r, I) and ``B`` (O, r), scaled: the module's weight changes by ``B @ A``."""
    parts, scale = adapter.modules[module], adapter.scale(module)
    if adapter.config["peft_type"] == "VERA":
        assert inputs is not None, f"{module}: VeRA's tensors do not say how many inputs it has"
        first, second = (adapter.tensors[name] for name in PROJECTIONS)
        down, up = parts["vera_lambda_d"], parts["vera_lambda_b"]
        return down[:, None] * first[:, :inputs], up[:, None] * second[: len(up)]
    a, b = parts["lora_A"], parts["lora_B"]
    if adapter.config["peft_type"] == "ADALORA":
        a = a * parts["lora_E"]
    return a, b * scale


def _plain(
    config: Mapping[str, Any], products: Mapping[str, Product], *, rank: int
) -> SavedAdapter:
    """Return the LoRA of scale 1 that adds the products, padded with zeros to one rank."""
    tensors = {}
    for module, (a, b) in products.items():
        missing = rank - a.shape[0]
        assert missing >= 0, f"{module} has the rank {a.shape[0]}, above {rank}"
        tensors[f"{PREFIX}{module}.lora_A.weight"] = pad(a, (0, 0, 0, missing)).contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = pad(b, (0, missing)).contiguous()
    kept = {name: config[name] for name in _KEPT if name in config}
    plain = {
        **kept,
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
        "target_modules": sorted(products),
    }
    return SavedAdapter(config=plain, tensors=tensors)
