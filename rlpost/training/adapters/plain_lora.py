"""Exact conversions of other kinds of adapters to plain LoRA, which every engine serves.

Owns the algebra. Refuses to own which kind is served in which way (serving.py). Invariants: the
result computes the same function within rounding; each module has the same rank and the scale 1
where anything had to be converted, because engines pack modules that have one rank. Nothing here
depends on the values of the tensors, so shapes can be had on torch's meta device.

Sources: AdaLoRA, https://arxiv.org/abs/2303.10512; VeRA, https://arxiv.org/abs/2310.11454; PiSSA,
https://arxiv.org/abs/2404.02948.

Legend: r rank, I inputs, O outputs of a module.
"""

import math
from collections.abc import Mapping, Sequence
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


def weighted_sum(adapters: Sequence[SavedAdapter], weights: Sequence[float]) -> SavedAdapter:
    """Return the LoRA that adds the sum of what plain adapters add, times their weights.

    Exact: the rank of a module is the sum of the adapters' ranks there; a module that an adapter
    leaves alone gets nothing from it.
    """
    products: dict[str, list[Product]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        assert adapter.config["peft_type"] == "LORA"
        for module in adapter.modules:
            a, b = product(adapter, module)
            products.setdefault(module, []).append((a.float(), b.float() * weight))
    joined = {
        module: (torch.cat([a for a, _ in each]), torch.cat([b for _, b in each], dim=1))
        for module, each in products.items()
    }
    rank = max(a.shape[0] for a, _ in joined.values())
    return _plain(adapters[0].config, joined, rank=rank)


def of_rank(adapter: SavedAdapter, rank: int) -> tuple[SavedAdapter, float]:
    """Return the nearest LoRA of at most ``rank`` to a plain one, and the relative error.

    The product ``B @ A`` of each module is cut at its largest singular values, which are found
    without the product itself. The error is the Frobenius norm of what is cut off all modules,
    divided by that of all products.
    """
    products, lost, total = {}, 0.0, 0.0
    for module in adapter.modules:
        a, b = product(adapter, module)
        basis_b, rest_b = torch.linalg.qr(b.double())
        basis_a, rest_a = torch.linalg.qr(a.double().T)
        u, sizes, v = torch.linalg.svd(rest_b @ rest_a.T)
        root = sizes[:rank].sqrt()
        down = (v[:rank] * root[:, None]) @ basis_a.T
        up = basis_b @ (u[:, :rank] * root)
        products[module] = down.float(), up.float()
        lost += float(sizes[rank:].square().sum())
        total += float(sizes.square().sum())
    kept = max(a.shape[0] for a, _ in products.values())
    error = math.sqrt(lost / total) if total > 0 else 0.0
    return _plain(adapter.config, products, rank=kept), error


def inner_product(first: SavedAdapter, second: SavedAdapter) -> float:
    """Return the inner product of what two plain adapters add, over all modules."""
    total = 0.0
    for module in first.modules.keys() & second.modules.keys():
        (a, b), (other_a, other_b) = (product(each, module) for each in (first, second))
        total += float(
            ((b.double().T @ other_b.double()) * (a.double() @ other_a.double().T)).sum()
        )
    return total


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
