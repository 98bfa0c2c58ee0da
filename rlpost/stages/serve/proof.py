"""The proof that an adapter is served: what is scored, and what the engine must say of it.

Owns the sequences and the decision. Refuses to own both sides of the comparison (examination.py,
loading.py). Invariant: an adapter that passes changes the model in plain peft, changes it in the
engine, and both say the same of it within the bound of the weight bus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.errors import UserError
from rlpost.evaluation.suites.catalog import SUITES
from rlpost.stages.sampling.probe import ends_of
from rlpost.weights.probe_answers import logprob_difference
from rlpost.weights.protocol import BusConfig
from rlpost.weights.publisher import WeightsConfig

_ROUNDING = 1e-4  # nats, of two implementations in float32
Logprobs = Sequence[Sequence[float]]  # nats, of every token after the first of each sequence


def probe_sequences(tokenizer: Any, *, longest: int) -> list[list[int]]:
    """Return the token ids that both sides score: ends of prompts of a bundled suite.

    Args:
        tokenizer: the base's.
        longest: tokens that the engine can read.
    """
    cfg = WeightsConfig()
    texts = [item.prompt for item in SUITES["general"].held_out()[: cfg.probe_sequences]]
    ids = [found for text in texts if (found := tokenizer(text)["input_ids"])]
    return ends_of(ids, num=min(cfg.probe_tokens, longest))


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How far apart both sides are, and how much the adapter changes, in nats.

    Example: ``Proof(mean=2e-6, largest=9e-6, change=0.8)``
    """

    mean: float
    largest: float
    change: float  # the largest difference from the base, in plain peft


def require_change(base: Logprobs, adapter: Logprobs, *, field: str) -> float:
    """Return how much an adapter changes in plain peft.

    Raises:
        UserError: nothing at all.
    """
    _, change = logprob_difference(base, adapter)
    if change == 0:
        num = sum(map(len, base))
        raise UserError(
            f"{field}: it changes nothing: in plain peft the log-probs of all {num} tokens of the "
            "probe are the base's own; it was saved before it learned, or its product is zero: use "
            "another copy, or ask for the base by its own name"
        )
    return change


def prove(
    *,
    base: Logprobs,
    adapter: Logprobs,
    wanted: Logprobs,
    change: float,
    exact: bool,
    quantized: bool = False,
    field: str,
) -> Proof:
    """Compare what the engine says with plain peft.

    Args:
        base: of the engine, without the adapter.
        adapter: of the engine, with it.
        wanted: of plain peft, with it.
        change: see ``require_change``.
        exact: whether the engine computes in float32.
        quantized: whether it computes in fewer bits than its dtype.
        field: what an error calls the adapter.

    Raises:
        UserError: the engine does not compute what peft does.
    """
    mean, largest = logprob_difference(wanted, adapter)
    bound = BusConfig(exact=exact, quantized=quantized).bound
    way_out = "merge it with rlpost merge and serve the export as model.path"
    if not (largest if exact else mean) <= bound:
        raise UserError(
            f"{field}: the engine does not compute what plain peft computes: log-probs of the "
            f"probe differ by {mean:.2g} nats on average and {largest:.2g} at most, above "
            f"{bound:g}; {way_out}"
        )
    # A smaller change drowns in rounding, so nothing can be said of it.
    visible = change > (_ROUNDING if exact else bound)
    if visible and not mean < logprob_difference(wanted, base)[0]:
        raise UserError(
            f"{field}: the engine computes the same with it as without, and plain peft does not "
            f"(by up to {change:.2g} nats); {way_out}"
        )
    return Proof(mean=mean, largest=largest, change=change)
