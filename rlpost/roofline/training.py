"""How long a forward and a backward pass over a step's tokens take on a group of devices.

Owns the arithmetic: products, attention, memory traffic, communication that hides and that does
not, and the bubble of a pipeline. rlpost itself divides a model with ZeRO alone; tensor, pipeline,
expert and context parallelism are here because published figures were made with them.
"""

import math
from dataclasses import dataclass

from rlpost.models.shape import ModelShape
from rlpost.roofline.devices import DeviceSpec
from rlpost.roofline.efficiency import EFFICIENCY, Efficiency
from rlpost.roofline.work import BYTES, attention_flops, layer_values, multiplied

_OPTIMIZER_BYTES = 28  # read and written of a parameter: masters, two moments, gradient, weight
_LOGIT_BYTES = 24  # of an entry of the vocabulary: logits, softmax and gradient, in float32
# Forwards that attention's backward costs: five products where a forward makes two, because the
# scores are computed again (FlashAttention-2, arXiv 2307.08691, section 3.1).
_ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How ``devices`` divide a model and a batch."""

    devices: int
    micro_batch_tokens: float  # that one replica sees at a time
    zero_stage: int = 3
    recomputed: float = 0.0  # share of the layers whose forward pass is computed twice
    tensor: int = 1
    pipeline: int = 1
    chunks: int = 1  # that a pipeline stage is divided into, which shortens its bubble
    expert: int = 1
    context: int = 1

    @property
    def replicas(self) -> int:
        return self.devices // (self.tensor * self.pipeline * self.context)


def update_s(
    shape: ModelShape,
    device: DeviceSpec,
    layout: Layout,
    *,
    tokens: float,
    length: float,
    updates: int = 1,
    overhead_s: float = 0.0,
    k: Efficiency = EFFICIENCY,
) -> float:
    """Return the seconds of forward, backward and optimizer.

    Args:
        shape: of the model.
        device: one of ``layout.devices``.
        layout: how they divide the work.
        tokens: of the step, prompts included.
        length: of a sequence, on average; decides attention.
        updates: optimizer steps that the tokens are divided into.
        overhead_s: of each micro-batch, beside the work counted here.
        k: constants.
    """
    passes = 3 + layout.recomputed  # of a forward; a backward costs two
    each = _pass_s(
        shape, device, layout, tokens=tokens / updates, length=length, passes=passes, k=k
    )
    micro = _micro_batches(layout, tokens / updates)
    return updates * (
        (micro + _bubble(layout)) * (each + overhead_s) + _optimizer_s(shape, device, layout, k)
    )


def forward_s(
    shape: ModelShape,
    device: DeviceSpec,
    layout: Layout,
    *,
    tokens: float,
    length: float,
    k: Efficiency = EFFICIENCY,
) -> float:
    """Return the seconds of a pass that only scores; arguments as those of ``update_s``."""
    each = _pass_s(shape, device, layout, tokens=tokens, length=length, passes=1, k=k)
    return (_micro_batches(layout, tokens) + _bubble(layout)) * each


def _bubble(layout: Layout) -> float:
    """Return the micro-batches' time that the last stage of a pipeline waits."""
    return (layout.pipeline - 1) / layout.chunks


def _micro_batches(layout: Layout, tokens: float) -> int:
    return math.ceil(tokens / layout.replicas / layout.micro_batch_tokens - 1e-9)


def _pass_s(
    shape: ModelShape,
    device: DeviceSpec,
    layout: Layout,
    *,
    tokens: float,
    length: float,
    passes: float,
    k: Efficiency,
) -> float:
    """Return the seconds of ``passes`` forwards of one stage over one micro-batch.

    Three and more are those of an update, of which two are its backward.
    """
    own = tokens / layout.replicas / _micro_batches(layout, tokens)  # of a replica
    parts = layout.tensor * layout.context * layout.pipeline
    weights = multiplied(shape)
    share = k.products if device.power_bound else k.products_full_clock
    products = passes * 2 * weights * own / parts / (device.matmul_flops * share)
    pairs = own * length / 2
    scored = passes if passes == 1 else passes - 2 + _ATTENTION_BACKWARD
    attention = (
        scored * attention_flops(shape) * pairs / parts / (device.attention_flops * k.attention)
    )
    values = shape.layers * layer_values(shape) * BYTES + shape.vocabulary * _LOGIT_BYTES
    traffic = k.traffic * values * own / parts / device.memory_bandwidth
    launches = shape.layers / layout.pipeline * k.train_layer_s
    waits = _tensor_s(shape, device, layout, own, k) + _expert_s(shape, device, layout, own, k)
    busy = products + attention + passes * (traffic + launches + waits)
    return max(busy, _zero_s(shape, device, layout, passes, k))


def _tensor_s(
    shape: ModelShape, device: DeviceSpec, layout: Layout, tokens: float, k: Efficiency
) -> float:
    """Return two reductions of the layer's values a layer, which nothing hides."""
    if layout.tensor == 1:
        return 0.0
    sent = 2 * 2 * (1 - 1 / layout.tensor) * tokens / layout.context * shape.width * BYTES
    layers = shape.layers / layout.pipeline
    return layers * sent / (_link(device, layout.tensor) * k.links)


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


def _zero_s(
    shape: ModelShape, device: DeviceSpec, layout: Layout, passes: float, k: Efficiency
) -> float:
    """Return gathering the weights once a pass over them, which runs beside the products."""
    if layout.zero_stage < 3 or layout.devices == 1:
        return 0.0
    gathers = 1 if passes == 1 else 3  # forwards, backwards, and the gradients go back
    held = BYTES * shape.parameters / (layout.tensor * layout.pipeline * layout.expert)
    return gathers * held / (_node_rate(device, layout.devices) * k.links)


def _optimizer_s(shape: ModelShape, device: DeviceSpec, layout: Layout, k: Efficiency) -> float:
    """Return the update, and the reduction of gradients that stages below 3 make then."""
    if layout.zero_stage or layout.tensor * layout.pipeline > 1:
        owned = shape.parameters / layout.devices
    else:
        owned = float(shape.parameters)
    seconds = _OPTIMIZER_BYTES * owned / (device.memory_bandwidth * k.memory)
    if layout.zero_stage < 3 and layout.replicas > 1:
        held = BYTES * shape.parameters / (layout.tensor * layout.pipeline * layout.expert)
        seconds += 2 * held / (_node_rate(device, layout.devices) * k.links)
    return seconds


def _link(device: DeviceSpec, span: int) -> float:
    """Return bytes a second between ``span`` devices that are next to each other."""
    return device.link_bandwidth if span <= device.per_link_domain else device.network_bandwidth


def _node_rate(device: DeviceSpec, devices: int) -> float:
    """Return bytes a second that all devices of a node receive together from the others."""
    if devices <= device.per_link_domain:
        return device.link_bandwidth
    return device.network_bandwidth * min(8, device.per_link_domain)
