"""What trainer and generators both score after a push, to prove that it arrived.

Owns the choice of the sequences. Refuses to own the comparison (weights/bus.py).
"""

from collections.abc import Iterable, Sequence

from rlpost.data.dataset import PromptDataset
from rlpost.weights.publisher import WeightsConfig


def probe_of(prompts: PromptDataset, cfg: WeightsConfig) -> list[list[int]]:
    """Take the ends of the first prompts; see ``ends_of``."""
    first = range(min(cfg.probe_sequences, len(prompts)))
    return ends_of((prompts.prompt(0, row).token_ids for row in first), num=cfg.probe_tokens)


def ends_of(prompts: Iterable[Sequence[int]], *, num: int) -> list[list[int]]:
    """Take the last ``num`` tokens of each prompt.

    A prompt that is shorter is repeated: a probe compares a log-prob of each token but the
    first, so it needs at least two.
    """
    sequences = []
    for ids in prompts:
        repeats = -(-num // len(ids)) if len(ids) < 2 else 1
        sequences.append([*ids, *ids * (repeats - 1)][-num:])
    return sequences
