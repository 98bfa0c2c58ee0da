"""Tiny reward models, and the plain computation that critic and scorer must equal."""

from pathlib import Path

import numpy as np
import torch
from packed_groups import sequences_of, with_columns
from torch import Tensor

from rlpost.training.packing.batch import MicroBatch


def build_reward_model(directory: Path, base: Path, *, seed: int = 0) -> Path:
    """Write ``base`` with a random head, wide enough that scores differ visibly."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model.score.weight.normal_(std=0.3)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def build_step_model(directory: Path, base: Path, *, num_labels: int = 2, seed: int = 0) -> Path:
    """Write ``base`` as a token classifier with a random head."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(
        base, num_labels=num_labels, dtype=torch.float32
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for param in model.score.parameters():
            param.normal_(std=0.3)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def load_plain_classifier(path):
    """The model as transformers gives it, in float32."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)


def plain_values(model, batch: MicroBatch) -> Tensor:
    """Values (R,) by one ordinary forward pass per sequence, read before each token."""
    values = []
    for prompt, response in sequences_of(batch):
        ids = torch.tensor([prompt + response])
        hidden = model.base_model(ids, use_cache=False).last_hidden_state[0]
        values.append(model.score(hidden[len(prompt) - 1 : -1]).squeeze(-1))
    return torch.cat(values)


def plain_score(model, sequence: list[int]) -> float:
    """transformers' own score of one sequence."""
    with torch.no_grad():
        return model(torch.tensor([sequence])).logits.item()


def with_returns(batch: MicroBatch, *, seed: int = 0) -> MicroBatch:
    """Random returns and old values, as a stage would attach them."""
    rng = np.random.default_rng(seed + len(batch.target_R))
    returns_R, values_R = rng.normal(size=(2, len(batch.target_R))).astype(np.float32)
    return with_columns(batch, returns_R=returns_R, rollout_values_R=values_R)
