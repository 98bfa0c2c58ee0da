"""What trainer and generators both score after a push, to prove that it arrived.

Owns the choice of the sequences. Refuses to own the comparison (weights/bus.py).
"""

from rlpost.data.dataset import PromptDataset
from rlpost.weights.publisher import WeightsConfig


def probe_of(prompts: PromptDataset, cfg: WeightsConfig) -> list[list[int]]:
    """Take the ends of the first prompts.

    A prompt that is shorter is repeated: a probe compares a log-prob of each token but the
    first, so it needs at least two.
    """
    sequences = []
    for row in range(min(cfg.probe_sequences, len(prompts))):
        ids = prompts.prompt(0, row).token_ids
        repeats = -(-cfg.probe_tokens // len(ids)) if len(ids) < 2 else 1
        sequences.append(list(ids * repeats)[-cfg.probe_tokens :])
    return sequences
