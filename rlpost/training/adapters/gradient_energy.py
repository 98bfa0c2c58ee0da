"""Measures an adapter that is trained: where the gradient of a few rows lies, and its updates.

Owns the pass that has gradients of weights which are not trained, one weight at a time. Refuses to
own the algebra (capacity.py). Invariants: nothing that is trained, drawn or accumulated changes by
a measurement; of a linear layer no gradient outlives the step of the backward pass that made it.

A linear layer's gradient is the product of what it read and the gradient of what it gave, so its
own weight may be frozen, in 4 bits, or computed again by gradient checkpointing.

Legend: T packed tokens.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from rlpost.training.adapters.capacity import Energy, Spectrum, energies, reach

_NAME = "default"  # peft's name of the adapter


def measure_capacity(
    module: Any, *, loss: Callable[[], Tensor], in_first_T: Tensor
) -> dict[str, float]:
    """Return metrics of the adapter of ``module`` by one more forward and backward pass.

    Shares are of the energy (squared norm) of gradients. ``adapter/gradient_outside``: of weights
    with an adapter, what it cannot follow; ``.._agreed``: the same of what both halves of the rows
    have in common; ``adapter/gradient_agreement``: cosine between the halves;
    ``adapter/gradient_unadapted``: of all linear layers, what is in those without an adapter;
    ``adapter/gradient_other_weights``: of all weights, what is in frozen ones that are no linear
    layer's; ``adapter/reach``: dimensions that an adapter can follow, as a share. The updates:
    ``adapter/update_rank``, its share of the rank (``_used``), ``_stable_rank`` and ``_top_share``,
    means over layers. Two have values by the name of a layer too, after another ``/``.

    Args:
        module: a ``PackedModel`` with whole weights and a plain low-rank adapter.
        loss: computes the loss of the rows by a forward pass of ``module``.
        in_first_T: bool, which of the packed tokens belong to the first half of the rows.
    """
    model = module.model
    layers = dict(_low_rank_layers(model))
    bare = dict(_bare_layers(model, layers))
    found: dict[str, tuple[Energy, Energy]] = {}

    def take(name: str, x: Tensor, gradient: Tensor) -> None:
        x_TI, g_TO = x.flatten(0, -2), gradient.flatten(0, -2)
        if len(x_TI) == len(in_first_T):  # an expert reads some tokens only
            a, b = _matrices(layers.get(name), x_TI, g_TO)
            found[name] = energies(x_TI, g_TO, in_first_T, a_rI=a, b_Or=b)

    bases = {name: layer.get_base_layer() for name, layer in layers.items()} | bare
    devices = [in_first_T.device] if in_first_T.is_cuda else []
    with (
        torch.random.fork_rng(devices=devices),
        _tapped(bases, take),
        _differentiable(module, linear=bases) as (frozen, trained),
        torch.enable_grad(),
    ):
        gradients = torch.autograd.grad(loss(), [*frozen, *trained], allow_unused=True)
    others = sum(float(g.float().square().sum()) for g in gradients[: len(frozen)] if g is not None)
    del gradients
    adapted = {name: each for name, each in found.items() if name in layers}
    without = sum((whole for name, (whole, _) in found.items() if name in bare), Energy())
    return _shares(adapted, without=without, others=others) | _updates(layers)


def _low_rank_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            yield name, layer


def _bare_layers(model: Any, layers: Mapping[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the frozen linear layers that have no adapter, the output head aside."""
    from transformers.pytorch_utils import Conv1D

    inside = {id(part) for layer in layers.values() for part in layer.modules()}
    head = model.get_output_embeddings()
    for name, layer in model.named_modules():
        linear = isinstance(layer, nn.Linear | Conv1D) and layer is not head
        if linear and id(layer) not in inside and not layer.weight.requires_grad:
            yield name, layer


def _matrices(layer: Any | None, x_TI: Tensor, g_TO: Tensor) -> tuple[Tensor, Tensor]:
    if layer is None:
        return x_TI.new_zeros(0, x_TI.shape[1]), g_TO.new_zeros(g_TO.shape[1], 0)
    return layer.lora_A[_NAME].weight.detach(), layer.lora_B[_NAME].weight.detach()


class _Tap(torch.autograd.Function):
    """Gives a layer's output as it is, and hands its gradient on with what the layer read."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, read: Tensor, take: Callable[..., None]) -> Tensor:
        ctx.save_for_backward(read)  # which gradient checkpointing computes again
        ctx.take = take
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (read,) = ctx.saved_tensors
        with torch.no_grad():
            ctx.take(read.detach(), gradient)
        return gradient, None, None


@contextmanager
def _tapped(layers: Mapping[str, nn.Module], take: Callable[..., None]) -> Iterator[None]:
    """Have ``take(name, read, gradient)`` called for each layer in a backward pass."""

    def tap(name: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        tapped: Tensor = _Tap.apply(output, args[0].detach(), partial(take, name))
        return tapped

    handles = [layer.register_forward_hook(partial(tap, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiable(
    module: Any, *, linear: Mapping[str, nn.Module]
) -> Iterator[tuple[list[nn.Parameter], list[nn.Parameter]]]:
    """Have the frozen weights that are not those of ``linear`` require gradients, too.

    Embeddings are among them or among the trained ones, so a backward pass reaches every layer.
    Returns them, and the trained ones.
    """
    weights = {id(layer.weight) for layer in linear.values()}
    trained = [each for each in module.parameters() if each.requires_grad]
    frozen = [
        each
        for each in module.model.parameters()
        if not each.requires_grad and id(each) not in weights and each.is_floating_point()
    ]
    for each in frozen:
        each.requires_grad_(True)
    try:
        yield frozen, trained
    finally:
        for each in frozen:
            each.requires_grad_(False)


def _shares(
    adapted: Mapping[str, tuple[Energy, Energy]], *, without: Energy, others: float
) -> dict[str, float]:
    inside = sum((whole for whole, _ in adapted.values()), Energy())
    rest = sum((outside for _, outside in adapted.values()), Energy())
    linear = inside.whole + without.whole
    named: dict[str, list[tuple[Energy, Energy]]] = defaultdict(list)
    for name, each in adapted.items():
        named[name.rpartition(".")[2]].append(each)
    shares = {
        "adapter/gradient_outside": (rest.whole, inside.whole),
        "adapter/gradient_unadapted": (without.whole, linear),
        "adapter/gradient_other_weights": (others, linear + others),
    } | {
        f"adapter/gradient_outside/{name}": (
            sum(outside.whole for _, outside in each),
            sum(whole.whole for whole, _ in each),
        )
        for name, each in named.items()
    }
    metrics = {name: part / whole for name, (part, whole) in shares.items() if whole > 0}
    if inside.agreement is not None:
        metrics["adapter/gradient_agreement"] = inside.agreement
        if inside.common > 0:
            metrics["adapter/gradient_outside_agreed"] = rest.common / inside.common
    return metrics


def _updates(layers: Mapping[str, Any]) -> dict[str, float]:
    named: dict[str, list[float]] = defaultdict(list)
    reached = weights = 0
    for name, layer in layers.items():
        a, b = layer.lora_A[_NAME].weight.detach(), layer.lora_B[_NAME].weight.detach()
        reached += reach(a_rI=a, b_Or=b)
        weights += a.shape[1] * b.shape[0]
        spectrum = Spectrum.of(a_rI=a, b_Or=b, scale=layer.scaling[_NAME])
        if spectrum is not None:  # else it has not learned yet
            rank = spectrum.effective_rank
            named["adapter/update_rank"].append(rank)
            named[f"adapter/update_rank/{name.rpartition('.')[2]}"].append(rank)
            named["adapter/update_rank_used"].append(rank / min(*a.shape, b.shape[0]))
            named["adapter/update_stable_rank"].append(spectrum.stable_rank)
            named["adapter/update_top_share"].append(spectrum.top_share)
    means = {name: fmean(values) for name, values in named.items()}
    return {"adapter/reach": reached / weights, **means}
