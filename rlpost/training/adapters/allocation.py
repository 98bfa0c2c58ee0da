"""Takes AdaLoRA's ranks away where they matter least, and keeps its directions apart.

Owns what that needs: the whole gradient of each update, the ranks that are left, and the term of
the loss. Refuses to own the scores and the budget, which are peft's. Invariants: every process of a
group comes to the same ranks, because gradients are averaged before they count; a direction that
is taken away keeps its place with the weight 0, so shapes never change, and after the last
allocation it stays there.

Source: https://arxiv.org/abs/2303.10512.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.training.adapters.saved import SavedAdapter

log = logging.getLogger(__name__)

_NAME = "default"  # peft's name of the adapter
_SCORES = ("exp_avg_ipt", "exp_avg_unc")  # peft's names of the running importances
_KEPT = "kept"


class Allocation:
    """A ``Companion``: gathers gradients, takes ranks away after updates, adds the term.

    Needs whole parameters, which ZeRO-3 does not have between passes.
    """

    def __init__(self, model: Any, *, orthogonality: float) -> None:
        from peft.tuners.adalora.layer import RankAllocator

        self._model, self._orthogonality = model, orthogonality
        self._peft = model.peft_config[_NAME]
        self._allocator = RankAllocator(model, self._peft, _NAME)
        self._kept: dict[str, list[bool]] = {}  # by name of an E: which directions are there
        self._gradients: dict[str, Tensor] = {}
        for name, parameter in self._own().items():
            parameter.register_hook(partial(self._add, name))

    def _own(self) -> dict[str, Any]:
        named = self._model.named_parameters()
        return {n: p for n, p in named if "lora_" in n and f".{_NAME}" in n and p.requires_grad}

    def _add(self, name: str, gradient: Tensor) -> None:
        """Take the gradient of one pass, which every ZeRO stage hands out whole."""
        total = self._gradients.get(name)
        self._gradients[name] = gradient.float() if total is None else total + gradient.float()

    def extra_loss(self) -> Tensor | None:
        """Return the mean distance of the directions from orthonormal ones, weighted."""
        if self._orthogonality == 0:
            return None
        distances = []
        for name, p in self._own().items():
            if "lora_E" not in name:
                products = p @ p.T if "lora_A" in name else p.T @ p
                eye = torch.eye(len(products), device=p.device, dtype=p.dtype)
                distances.append(torch.linalg.norm(products - eye))
        return self._orthogonality * torch.stack(distances).mean()

    @torch.no_grad()
    def after_step(self, step: int, *, applied: bool) -> Mapping[str, Tensor]:
        """Score the directions and take ranks away; returns what E's masters are multiplied by.

        Between two allocations a direction that was taken away is trained on, so that the next
        allocation may take it back; after the last one it stays at 0 (section 3.3 of the paper).
        """
        gradients, self._gradients = self._gradients, {}
        ends = self._peft.total_step - self._peft.tfinal
        if step > ends:
            return self._factors()
        # The last allocation reads the scores of earlier updates alone, so it also happens where
        # its own update was skipped.
        is_due = applied if step < ends else bool(self._allocator.exp_avg_ipt)
        if not is_due:
            return {}
        kept = self._allocated(_averaged(gradients) if applied else {}, step, last=step == ends)
        if not kept:
            return {}
        self._kept = kept
        if step == ends:
            log.info("AdaLoRA's ranks after update %d: %s", step, self.ranks())
        return self._factors()

    def _allocated(
        self, gradients: Mapping[str, Tensor], step: int, *, last: bool
    ) -> dict[str, list[bool]] | None:
        """Score the directions and, where it is time, return which of each E are kept."""
        own = self._own()
        for name, parameter in own.items():
            gradient = gradients.get(name)
            parameter.grad = (
                torch.zeros_like(parameter) if gradient is None else gradient.to(parameter)
            )
        _, kept = self._allocator.update_and_allocate(self._model, step, force_mask=last)
        for parameter in own.values():
            parameter.grad = None
        found: dict[str, list[bool]] | None = kept
        return found

    def _factors(self) -> dict[str, Tensor]:
        """Return 1 for each direction that is kept and 0 for the others, by the name of its E."""
        return {
            name: torch.tensor(kept, device=self._device)[:, None].float()
            for name, kept in self._kept.items()
        }

    @property
    def _device(self) -> torch.device:
        return next(iter(self._own().values())).device

    def ranks(self) -> dict[str, int]:
        """Return the rank of each layer. Example: ``{"layers.0.self_attn.q_proj": 3}``"""
        found = {}
        for name, parameter in self._own().items():
            if "lora_E" in name:
                layer = name.removesuffix(f".lora_E.{_NAME}")
                found[layer] = sum(self._kept[name]) if name in self._kept else len(parameter)
        return found

    def metrics(self) -> dict[str, float]:
        """Return what is worth watching after an update."""
        ranks = list(self.ranks().values())
        return {
            "adapter/ranks": float(sum(ranks)),
            "adapter/smallest_rank": float(min(ranks)),
            "adapter/largest_rank": float(max(ranks)),
        }

    def filed(self, own: SavedAdapter) -> SavedAdapter:
        """Return ``own``: ranks that were taken away stay as zeros, so the tensors say it all."""
        return own

    def state_dict(self) -> dict[str, Tensor]:
        state = {
            f"{kind}/{name}": tensor
            for kind in _SCORES
            for name, tensor in getattr(self._allocator, kind).items()
        }
        return state | {f"{_KEPT}/{name}": torch.tensor(k) for name, k in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._allocator.reset_ipt()
        self._kept, self._gradients = {}, {}
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            if kind == _KEPT:
                self._kept[name] = tensor.tolist()
            else:
                getattr(self._allocator, kind)[name] = tensor.to(self._device)
                self._allocator.ipt.setdefault(name, torch.zeros_like(tensor, device=self._device))


def _averaged(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the means over the processes of the group; collective."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for name in sorted(gradients):
            dist.all_reduce(gradients[name])
            gradients[name] /= dist.get_world_size()
    return gradients
