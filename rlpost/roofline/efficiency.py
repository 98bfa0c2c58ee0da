"""How much of the hardware a run reaches: the constants that published figures determine.

Owns the constants and the error that they leave. Refuses to own the figures and the fit
(``benchmarks/calibrate_plan.py``; ``tests/roofline`` computes the error again). Half of
``tests/published_figures.yaml`` and all of ``tests/opened_figures.yaml`` determine ``FITTED``.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares are of what the hardware can do at best; see ``DeviceSpec``."""

    # Fitted: see the module.
    products: float = 0.911  # share of the best rate that matrix products in training reach
    products_full_clock: float = 0.892  # the same of devices that keep their clock
    attention: float = 0.778  # share of FlashAttention-2's best rate that attention reaches
    early_attention: float = 0.619  # the same of kernels of 2023, in figures of that year alone
    hopper_attention: float = 1.23  # the same of FlashAttention 3 and cuDNN on Hopper GPUs
    expert_products: float = 0.461  # share of ``products`` that those of experts reach
    exposed: float = 0.652  # share of dividing weights and gradients that computation does not hide
    traffic: float = 3.73  # times that a layer's values pass memory, forwards, outside of products
    memory: float = 0.855  # share of the memory's rate that reading weights reaches
    lone_memory: float = 0.362  # the same of reading weights for one sequence alone
    cache_memory: float = 0.866  # the same of reading keys and values
    decode_layer_s: float = 22.3e-6  # of one layer in a decoding step, beside memory and products
    far_hop_s: float = 50.9e-6  # of one reduction between nodes, of the few bytes of such a step
    host_s: float = 1.35e-3  # of a decoding step, for scheduling
    host_token_s: float = 147e-6  # of one sequence in a decoding step, on the host beside it
    expert_memory: float = 0.419  # share of ``memory`` that reading experts' weights reaches
    expert_waits: float = 0.198  # share of sending tokens to experts that nothing hides
    links: float = 0.51  # share of a link's rate that collectives reach
    step_s: float = 25.4  # of a colocated step: engines and ranks sleep and wake, data moves
    gathered: float = 76.1e9  # bytes a second of weights that all ranks send and engines pipeline
    broadcast: float = 21.5e9  # bytes a second of weights that one rank sends to all engines

    # Assumed.
    decode_products: float = 0.8  # share of the best rate that products of prompts reach
    near_hop_s: float = 12e-6  # of one reduction within a node
    logit_bytes: float = 24  # of an entry of the vocabulary and pass: logits, softmax, gradient
    train_layer_s: float = 60e-6  # of one layer's launches, forwards
    push_s: float = 1.0  # of a push, beside its bytes

    # Of rlpost's own trainer on an H100 (docs/benchmarks.md): seconds of a micro-batch beside its
    # work, and how full micro-batches get.
    micro_batch_s: float = 0.07
    filled: float = 0.8


FITTED = (
    "products", "products_full_clock", "attention", "early_attention", "hopper_attention",
    "expert_products", "exposed", "traffic", "memory", "lone_memory", "cache_memory",
    "decode_layer_s", "far_hop_s", "host_s", "host_token_s", "expert_memory", "expert_waits",
    "links", "step_s", "gathered", "broadcast",
)  # fmt: skip
EFFICIENCY = Efficiency()

# On CPUs a device's rates are what was measured with this trainer and this engine
# (docs/benchmarks.md), so that nothing of them is lost but what is counted here.
CPU_EFFICIENCY = replace(
    EFFICIENCY,
    products=1.0,
    products_full_clock=1.0,
    decode_products=0.4,  # a step of decoding multiplies few rows
    attention=1.0,
    expert_products=1.0,
    exposed=0.0,
    traffic=0.0,
    logit_bytes=0.0,
    memory=1.0,
    lone_memory=1.0,
    cache_memory=1.0,
    decode_layer_s=0.0,
    host_s=5e-3,
    host_token_s=300e-6,
    train_layer_s=0.0,
    step_s=0.0,
    push_s=0.2,
    micro_batch_s=0.0,
)

CPU_ERROR = 0.2  # of the trainer and the quickstart in docs/benchmarks.md
# In the median and at worst: on the half of the figures that was not fitted, and on figures of
# other sources, which were sealed until the terms and constants above were final.
KNOWN_ERROR = 0.09, 0.27
SEALED_ERROR = 0.17, 1.45
