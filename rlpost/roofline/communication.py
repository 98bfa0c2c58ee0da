"""How long devices that divide a model wait for each other in training.

Owns the bytes of each collective and the link that they pass. Refuses to own what they wait beside
(training.py). Experts are divided among ``expert`` devices, and where that is 1 like other weights.
"""

import math
from dataclasses import dataclass

from rlpost.models.shape import ModelShape
from rlpost.roofline.devices import DeviceSpec
from rlpost.roofline.efficiency import Efficiency
from rlpost.roofline.work import BYTES, expert_weights


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How ``devices`` divide a model and a batch."""

    devices: int
    micro_batch_tokens: float  # that one replica sees at a time
    zero_stage: int = 3
    recomputed: float = 0.0  # share of the layers whose forward pass is computed twice
    attends_again: bool = True  # attention is computed twice, too, where layers are
    tensor: int = 1
    pipeline: int = 1
    chunks: int = 1  # that a pipeline stage is divided into, which shortens its bubble
    expert: int = 1
    context: int = 1  # that divide a sequence, and exchange its heads (Ulysses)
    gradient_bytes: int = BYTES  # of a gradient on its way from device to device
    reduces_each: bool = False  # stages below 3 reduce in every micro-batch, and nothing hides it

    @property
    def replicas(self) -> int:
        return self.devices // (self.tensor * self.pipeline * self.context)

    @property
    def expert_parts(self) -> int:
        """Devices of one pipeline stage that a layer's experts are divided among."""
        return self.expert if self.expert > 1 else self.tensor


def exposed_s(seconds: float, *, beside: float, k: Efficiency) -> float:
    """Return how long a collective that runs beside computation holds it up.

    What does not fit beside the computation is waited for, and a share always: the first and the
    last of a pass have nothing beside them, and kernels of both kinds take turns.
    """
    return max(seconds - beside, k.exposed * seconds)


def layer_exchanges_s(
    shape: ModelShape, device: DeviceSpec, layout: Layout, tokens: float, k: Efficiency
) -> float:
    """Return what the layers of a stage exchange of ``tokens`` values forwards, and back once."""
    return (
        _tensor_s(shape, device, layout, tokens, k)
        + _context_s(shape, device, layout, tokens, k)
        + _expert_s(shape, device, layout, tokens, k)
    )


def _tensor_s(
    shape: ModelShape, device: DeviceSpec, layout: Layout, tokens: float, k: Efficiency
) -> float:
    """Return two reductions of the layer's values a layer, which nothing hides."""
    sent = 2 * 2 * (1 - 1 / layout.tensor) * tokens / layout.context * shape.width * BYTES
    layers = shape.layers / layout.pipeline
    return layers * sent / (_link(device, layout.tensor) * k.links)


def _context_s(
    shape: ModelShape, device: DeviceSpec, layout: Layout, tokens: float, k: Efficiency
) -> float:
    """Return changing from tokens of all heads to all tokens of some, and back, once a layer.

    Each device has a head of keys and values at least, which is sent as often as that takes.
    """
    if layout.context == 1:
        return 0.0
    heads = 2 * shape.heads + 2 * max(shape.kv_heads, layout.context)
    own = tokens / layout.context * heads * shape.head_dim / layout.tensor
    sent = (1 - 1 / layout.context) * own * BYTES
    layers = shape.layers / layout.pipeline
    return layers * sent / (_link(device, layout.tensor * layout.context) * k.links)


def _expert_s(
    shape: ModelShape, device: DeviceSpec, layout: Layout, tokens: float, k: Efficiency
) -> float:
    """Return sending each token to its experts and back, once a layer, as far as nothing hides it.

    A token is sent to a node once, however many of its experts are there.
    """
    if shape.experts is None or layout.expert == 1:
        return 0.0
    own = tokens / (layout.tensor * layout.context)
    domains = math.ceil(layout.expert / device.per_link_domain)
    if domains == 1:
        reached = min(shape.experts.per_token, layout.expert) * (1 - 1 / layout.expert)
    else:
        reached = (domains - 1) * (1 - (1 - 1 / domains) ** shape.experts.per_token)
    sent = 2 * reached * own * shape.width * BYTES
    layers = shape.experts.layers / layout.pipeline
    return k.expert_waits * layers * sent / (_link(device, layout.expert) * k.links)


def reduce_s(shape: ModelShape, device: DeviceSpec, layout: Layout, k: Efficiency) -> float:
    """Return giving each device the sum of its part of the gradients of a stage."""
    return layout.gradient_bytes / BYTES * gather_s(shape, device, layout, k)


def gather_s(shape: ModelShape, device: DeviceSpec, layout: Layout, k: Efficiency) -> float:
    """Return making the weights of a stage whole once, of 2 bytes each.

    A node's devices share what they receive, but for those that have different parts. What only one
    device has is neither sent nor reduced.
    """
    stage = layout.devices / layout.pipeline
    experts = expert_weights(shape)
    divided = ((layout.tensor, shape.parameters - experts), (layout.expert_parts, experts))
    held = [
        (parts, BYTES * weights / parts / layout.pipeline)
        for parts, weights in divided
        if stage > parts
    ]
    if layout.devices <= device.per_link_domain:
        return sum(size for _, size in held) / (device.link_bandwidth * k.links)
    together = min(8, device.per_link_domain)
    received = sum(size * min(parts, together) for parts, size in held)
    return received / (together * device.network_bandwidth * k.links)


def _link(device: DeviceSpec, span: int) -> float:
    """Return bytes a second between ``span`` devices that are next to each other."""
    return device.link_bandwidth if span <= device.per_link_domain else device.network_bandwidth
