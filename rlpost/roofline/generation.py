"""How long a step's responses take on a group of inference engines.

Owns the arithmetic of continuous batching: a step of decoding reads the weights and the keys and
values of all running sequences, prompts are products, the key-value cache limits how many run, and
the last ones run alone. One engine stands for all.
"""

from dataclasses import dataclass

from rlpost.errors import UserError
from rlpost.models.shape import ModelShape
from rlpost.roofline.devices import DeviceSpec
from rlpost.roofline.efficiency import EFFICIENCY, Efficiency
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.work import BYTES, attention_flops, multiplied, touched_weights

_WORKSPACE_BYTES = 2e9  # of an engine's device: activations, graphs, libraries


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Alike inference engines."""

    number: int
    tensor: int = 1  # devices of one
    most_sequences: int = 256  # that one runs at a time
    memory_share: float = 0.9  # of its devices' memory
    value_bytes: float = BYTES  # of a weight
    cache_bytes: float | None = None  # of keys and values; None: what the weights leave


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What a step asks for."""

    prompts: int
    samples: int  # responses of a prompt, which read it once
    prompt_tokens: float
    lengths: Lengths


def generation_s(
    shape: ModelShape,
    device: DeviceSpec,
    engines: Engines,
    requests: Requests,
    *,
    overlapping: int = 1,
    k: Efficiency = EFFICIENCY,
) -> float:
    """Return the seconds until all responses of a step are there.

    Args:
        shape: of the model.
        device: of the engines.
        engines: alike.
        requests: of one step.
        overlapping: steps that are in flight together, so that the tail of one is hidden by the
            next; the time is then that between two.
        k: constants.

    Raises:
        DoesNotFit: an engine's memory does not hold the weights and one sequence.
    """
    each = overlapping * requests.prompts * requests.samples / engines.number
    room = room_tokens(shape, device, engines)
    longest = requests.prompt_tokens + requests.lengths.longest
    if room < longest:
        raise DoesNotFit(
            f"an engine of {engines.tensor} x {device.name} has room for {max(0, room):,.0f} "
            f"tokens of keys and values beside the weights, and a sequence may have {longest:,.0f}"
            "; raise generator.tensor_parallel_size, or lower rollout.max_tokens"
        )
    # A sequence has half of its response on average while it runs.
    typical = requests.prompt_tokens + requests.lengths.mean / 2
    at_once = min(float(engines.most_sequences), room / typical, each)
    decoding = _decoding_s(shape, device, engines, requests, sequences=each, at_once=at_once, k=k)
    read = overlapping * requests.prompts * requests.prompt_tokens / engines.number
    return (decoding + _prompts_s(shape, device, engines, requests, read, k)) / overlapping


class DoesNotFit(UserError):
    """A model, or a sequence, is larger than the memory meant for it."""


def room_tokens(shape: ModelShape, device: DeviceSpec, engines: Engines) -> float:
    """Return the tokens whose keys and values an engine's memory holds."""
    cache = engines.cache_bytes
    if cache is None:
        memory = device.memory_bytes * engines.memory_share - _WORKSPACE_BYTES
        cache = engines.tensor * memory - engines.value_bytes * shape.parameters
    return cache / (BYTES * shape.kept_values * _copies(shape, engines))


def _copies(shape: ModelShape, engines: Engines) -> float:
    """Return how often an engine keeps a token: every device keeps a whole head at least."""
    heads = shape.kv_heads if shape.latent is None else 1
    return max(1.0, engines.tensor / heads)


def _decoding_s(
    shape: ModelShape,
    device: DeviceSpec,
    engines: Engines,
    requests: Requests,
    *,
    sequences: float,
    at_once: float,
    k: Efficiency,
) -> float:
    """Return the decoding of ``sequences`` by one engine, the longest tail included.

    Sequences are bundles of equal length; a bundle starts as soon as there is room for it.
    """
    waiting = list(requests.lengths.points())
    bundle = sequences / len(waiting)
    running: list[tuple[float, float]] = []  # tokens left, tokens made
    seconds = 0.0
    while waiting or running:
        while waiting and (not running or (len(running) + 1) * bundle <= at_once + 1e-9):
            running.append((waiting.pop(), 0.0))
        steps = min(left for left, _ in running)
        now = min(len(running) * bundle, max(at_once, 1.0))
        slower = len(running) * bundle / now  # a bundle that is larger than the room takes turns
        context = (
            requests.prompt_tokens + sum(made for _, made in running) / len(running) + steps / 2
        )
        seconds += steps * slower * step_s(shape, device, engines, now, context, k)
        running = [(left - steps, made + steps) for left, made in running if left > steps]
    return seconds


def step_s(
    shape: ModelShape,
    device: DeviceSpec,
    engines: Engines,
    sequences: float,
    context: float,
    k: Efficiency,
) -> float:
    """Return one step of decoding: a token for each of ``sequences`` of ``context`` tokens."""
    kept = BYTES * shape.kept_values * sequences * context * _copies(shape, engines)
    dense, expert = touched_weights(shape, sequences)
    read = kept + engines.value_bytes * (dense + expert / k.expert_memory)
    memory = read / (engines.tensor * device.memory_bandwidth * k.memory)
    products = (
        2
        * multiplied(shape)
        * sequences
        / engines.tensor
        / (device.matmul_flops * k.decode_products)
    )
    host = sequences * k.host_token_s
    return max(memory, products, host) + _latency_s(shape, device, engines, sequences, k)


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


def _prompts_s(
    shape: ModelShape,
    device: DeviceSpec,
    engines: Engines,
    requests: Requests,
    tokens: float,
    k: Efficiency,
) -> float:
    weights = multiplied(shape)
    operations = tokens * (2 * weights + attention_flops(shape) * requests.prompt_tokens / 2)
    return operations / engines.tensor / (device.matmul_flops * k.decode_products)
