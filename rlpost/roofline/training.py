"""How long a forward and a backward pass over a step's tokens take on a group of devices.

Owns the arithmetic: products, attention, memory traffic, what devices wait for each other, and the
bubble of a pipeline. rlpost itself divides a model with ZeRO and a sequence with Ulysses; tensor,
pipeline and expert parallelism are here because published figures were made with them.
"""

import math

from rlpost.models.shape import ModelShape
from rlpost.roofline.communication import (
    Layout,
    exposed_s,
    gather_s,
    layer_exchanges_s,
    reduce_s,
)
from rlpost.roofline.devices import DeviceSpec
from rlpost.roofline.efficiency import EFFICIENCY, Efficiency
from rlpost.roofline.work import (
    BYTES,
    attention_flops,
    chosen_weights,
    expert_values,
    expert_weights,
    layer_values,
    multiplied,
)

_OPTIMIZER_BYTES = 28  # read and written of a parameter: masters, two moments, gradient, weight
# Forwards that attention's backward costs: five products where a forward makes two, because the
# scores are computed again (FlashAttention-2, arXiv 2307.08691, section 3.1).
_ATTENTION_BACKWARD = 2.5


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
    micro = _micro_batches(layout, tokens / updates)
    own = tokens / updates / layout.replicas / micro
    each = _pass_s(shape, device, layout, own=own, length=length, passes=passes, k=k)
    return updates * (
        (micro + _bubble(layout)) * (each + overhead_s)
        + _reduction_s(shape, device, layout, k, micro=micro, beside=each)
        + _optimizer_s(shape, device, layout, k)
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
    micro = _micro_batches(layout, tokens)
    own = tokens / layout.replicas / micro
    each = _pass_s(shape, device, layout, own=own, length=length, passes=1, k=k)
    return (micro + _bubble(layout)) * each


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
    own: float,
    length: float,
    passes: float,
    k: Efficiency,
) -> float:
    """Return the seconds of ``passes`` forwards of one stage over one micro-batch.

    Args:
        shape: of the model.
        device: one of the stage.
        layout: how devices divide the work.
        own: tokens of the micro-batch.
        length: of a sequence.
        passes: 1, or those of an update: 3 and more, of which two are its backward.
        k: constants.
    """
    parts = layout.tensor * layout.context * layout.pipeline
    computed = passes * _products_s(shape, device, layout, own, k)
    again = layout.recomputed if layout.attends_again else 0.0
    scored = passes if passes == 1 else 1 + again + _ATTENTION_BACKWARD
    pairs = own * length / 2
    attention = (
        scored * attention_flops(shape) * pairs / parts / (device.attention_flops * k.attention)
    )
    launches = shape.layers / layout.pipeline * k.train_layer_s
    traffic = _traffic_s(shape, device, own / parts, k)
    exchanges = passes if passes == 1 else passes - 1  # a backward has as many as a forward
    waits = exchanges * layer_exchanges_s(shape, device, layout, own, k)
    busy = computed + attention + passes * (traffic + launches) + waits
    if layout.zero_stage < 3 or layout.devices == 1:
        return busy
    divided = gather_s(shape, device, layout, k)
    if passes > 1:  # backwards again, and the gradients go back
        divided += divided + reduce_s(shape, device, layout, k)
    return busy + exposed_s(divided, beside=busy, k=k)


def _products_s(
    shape: ModelShape, device: DeviceSpec, layout: Layout, own: float, k: Efficiency
) -> float:
    """Return a forward's matrix products; those of experts read their weights for few tokens."""
    share = k.products if device.power_bound else k.products_full_clock
    parts = layout.tensor * layout.context * layout.pipeline
    rate = device.matmul_flops * share
    chosen = chosen_weights(shape)
    seconds = 2 * (multiplied(shape) - chosen) * own / parts / rate
    if shape.experts is not None:
        seconds += 2 * chosen * own / parts / (rate * k.expert_products)
        held = BYTES * expert_weights(shape) / (layout.expert_parts * layout.pipeline)
        seconds += held / (device.memory_bandwidth * k.memory)
    return seconds


def _traffic_s(shape: ModelShape, device: DeviceSpec, own: float, k: Efficiency) -> float:
    """Return a forward's passing of values through memory, outside of products."""
    values = shape.layers * layer_values(shape) + expert_values(shape)
    size = k.traffic * values * BYTES + shape.vocabulary * k.logit_bytes
    return size * own / device.memory_bandwidth


def _reduction_s(
    shape: ModelShape,
    device: DeviceSpec,
    layout: Layout,
    k: Efficiency,
    *,
    micro: int,
    beside: float,
) -> float:
    """Return what stages below 3 wait for gradients, and for weights after the update.

    What is reduced once, the last micro-batch hides in part. Reducing in each of ``micro`` sends
    everybody's sums to all.
    """
    if layout.zero_stage == 3 or layout.devices == 1:
        return 0.0
    reduced, gathered = (each(shape, device, layout, k) for each in (reduce_s, gather_s))
    if layout.reduces_each:
        return micro * 2 * reduced + gathered
    if layout.replicas == 1:
        return 0.0
    return exposed_s(reduced + gathered, beside=beside, k=k)


def _optimizer_s(shape: ModelShape, device: DeviceSpec, layout: Layout, k: Efficiency) -> float:
    """Return the update of the parameters that a device owns."""
    divided = layout.devices if layout.zero_stage else layout.tensor * layout.pipeline
    return _OPTIMIZER_BYTES * shape.parameters / divided / (device.memory_bandwidth * k.memory)
