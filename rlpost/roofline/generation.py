"""How long a step's responses take on a group of inference engines.

Owns the arithmetic of continuous batching: the key-value cache limits how many sequences run,
others start as soon as there is room, and the last ones run alone. One engine stands for all: that
with the longest response.
"""

from dataclasses import dataclass

from rlpost.errors import UserError
from rlpost.models.shape import ModelShape
from rlpost.roofline.decoding import Engines, prompts_s, room_tokens, step_s
from rlpost.roofline.devices import DeviceSpec
from rlpost.roofline.efficiency import EFFICIENCY, Efficiency
from rlpost.roofline.lengths import Lengths


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What a step asks for."""

    prompts: int
    samples: int  # responses of a prompt, which read it once
    prompt_tokens: float
    lengths: Lengths


class DoesNotFit(UserError):
    """A model, or a sequence, is larger than the memory meant for it."""


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
    responses = overlapping * requests.prompts * requests.samples
    each = responses / engines.number
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
    decoding = _decoding_s(
        shape, device, engines, requests, responses=responses, at_once=at_once, k=k
    )
    read = overlapping * requests.prompts * requests.prompt_tokens / engines.number
    prompts = prompts_s(shape, device, engines, read, requests.prompt_tokens, k)
    return (decoding + prompts) / overlapping


@dataclass(kw_only=True)
class _Bundle:
    """Sequences of equal length that run together."""

    sequences: float
    left: float  # tokens
    made: float = 0.0


def _decoding_s(
    shape: ModelShape,
    device: DeviceSpec,
    engines: Engines,
    requests: Requests,
    *,
    responses: float,
    at_once: float,
    k: Efficiency,
) -> float:
    """Return the decoding of one engine's share of ``responses``, the longest of all included.

    A bundle starts as soon as there is room for it; one that is larger than the room takes turns.
    """
    waiting = _bundles(requests.lengths, responses, engines.number)
    running: list[_Bundle] = []
    seconds, busy = 0.0, 0.0  # busy: sequences that run
    while waiting or running:
        while waiting and (not running or busy + waiting[-1].sequences <= at_once + 1e-9):
            running.append(waiting.pop())
            busy += running[-1].sequences
        steps = min(each.left for each in running)
        now = min(busy, max(at_once, 1.0))
        made = sum(each.made * each.sequences for each in running) / busy
        context = requests.prompt_tokens + made + steps / 2
        seconds += steps * busy / now * step_s(shape, device, engines, now, context, k)
        for each in running:
            each.left -= steps
            each.made += steps
        running = [each for each in running if each.left > 0]
        busy = sum(each.sequences for each in running)
    return seconds


def _bundles(lengths: Lengths, responses: float, engines: int) -> list[_Bundle]:
    """Return what one engine of ``engines`` answers, the last first: with the longest response."""
    points = lengths.points()
    own = responses / engines
    alone = _Bundle(sequences=min(1.0, own), left=lengths.longest_of(responses))
    rest = (own - alone.sequences) / len(points)
    if not rest:
        return [alone]
    bundles = [_Bundle(sequences=rest, left=each) for each in points]
    return [*bundles[: len(bundles) // 2], alone, *bundles[len(bundles) // 2 :]]
