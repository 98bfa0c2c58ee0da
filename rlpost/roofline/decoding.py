"""How long one step of decoding takes on a group of inference engines: a token for each sequence.

Owns what such a step reads, multiplies and waits for. Refuses to own which sequences run together
(generation.py).
"""

from dataclasses import dataclass

from rlpost.models.shape import ModelShape
from rlpost.roofline.devices import DeviceSpec
from rlpost.roofline.efficiency import Efficiency
from rlpost.roofline.work import BYTES, attention_flops, chosen_weights, multiplied, touched_weights

_WORKSPACE_BYTES = 2e9  # of an engine's device: activations, graphs, libraries


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Alike inference engines."""

    number: int
    tensor: int = 1  # devices of one
    most_sequences: int = 256  # that one runs at a time
    memory_share: float = 0.9  # of its devices' memory
    value_bytes: float = BYTES  # of a weight, on average
    fp8: bool = False  # products are in fp8, where the device has them
    cache_value_bytes: float = BYTES  # of a value in the key-value cache
    cache_bytes: float | None = None  # of keys and values; None: what the weights leave


def room_tokens(shape: ModelShape, device: DeviceSpec, engines: Engines) -> float:
    """Return the tokens whose keys and values an engine's memory holds."""
    cache = engines.cache_bytes
    if cache is None:
        memory = device.memory_bytes * engines.memory_share - _WORKSPACE_BYTES
        cache = engines.tensor * memory - engines.value_bytes * shape.parameters
    return cache / _token_bytes(shape, engines)


def _token_bytes(shape: ModelShape, engines: Engines) -> float:
    """Return what an engine keeps of a token: every device keeps a whole head at least."""
    heads = shape.kv_heads if shape.latent is None else 1
    copies = max(1.0, engines.tensor / heads)
    return engines.cache_value_bytes * shape.kept_values * copies


def step_s(
    shape: ModelShape,
    device: DeviceSpec,
    engines: Engines,
    sequences: float,
    context: float,
    k: Efficiency,
) -> float:
    """Return one step of decoding: a token for each of ``sequences`` of ``context`` tokens."""
    dense, expert = touched_weights(shape, sequences)
    weights = engines.value_bytes * (
        dense / _read_share(sequences, k) + expert / (k.expert_memory * k.memory)
    )
    kept = _token_bytes(shape, engines) * sequences * context / k.cache_memory
    rate = engines.tensor * device.memory_bandwidth
    products = 2 * _effective_weights(shape, k) * sequences / _product_rate(device, engines, k)
    host = sequences * k.host_token_s
    # Products and attention are kernels of their own, one after the other.
    return max(max(weights / rate, products) + kept / rate, host) + _latency_s(
        shape, device, engines, sequences, k
    )


def _read_share(rows: float, k: Efficiency) -> float:
    """Return the share of the memory's rate that products of so many rows with weights read at.

    Kernels multiply tiles of 8 rows, and those for fewer are less efficient.
    """
    full = min(1.0, (max(rows, 1.0) - 1) / 7)
    return full * k.memory + (1 - full) * k.lone_memory


def prompts_s(
    shape: ModelShape,
    device: DeviceSpec,
    engines: Engines,
    tokens: float,
    length: float,
    k: Efficiency,
) -> float:
    """Return the reading of ``tokens`` of prompts of ``length``, which are products alone."""
    scored = attention_flops(shape) * length / 2
    operations = tokens * (2 * _effective_weights(shape, k) + scored)
    return operations / _product_rate(device, engines, k)


def _effective_weights(shape: ModelShape, k: Efficiency) -> float:
    """Return the weights that a token is multiplied with, in units of those of dense layers."""
    chosen = chosen_weights(shape)
    return multiplied(shape) - chosen + chosen / k.expert_products


def _product_rate(device: DeviceSpec, engines: Engines, k: Efficiency) -> float:
    """Return the operations a second of an engine."""
    twice = 2 if engines.fp8 and device.fp8 else 1
    return twice * engines.tensor * device.matmul_flops * k.decode_products


def _latency_s(
    shape: ModelShape, device: DeviceSpec, engines: Engines, sequences: float, k: Efficiency
) -> float:
    """Return what a step takes whatever it computes, and the reductions of its values."""
    seconds = k.host_s + shape.layers * k.decode_layer_s
    if engines.tensor > 1:
        near = engines.tensor <= device.per_link_domain
        rate = (device.link_bandwidth if near else device.network_bandwidth) * k.links
        hop_s = (k.near_hop_s if near else k.far_hop_s) + 2 * sequences * shape.width * BYTES / rate
        seconds += 2 * shape.layers * hop_s
    return seconds
