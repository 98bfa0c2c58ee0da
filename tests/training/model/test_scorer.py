"""The frozen reference scores like a plain model and like the policy."""

import numpy as np
import torch
from packed_groups import load_plain, pack_into, plain_scores, random_groups

from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.scorer import FrozenScorer
from rlpost.training.settings import DType, TrainerConfig


def test_log_probs_equal_a_plain_model_at_the_temperature(tiny_model):
    cfg = TrainerConfig(dtype=DType.float32, threads=1)
    scorer = FrozenScorer(cfg, model=TrainedModel.policy(str(tiny_model), cfg))
    batches = pack_into(*random_groups(), num_micro_batches=3).batches[0]
    plain = load_plain(tiny_model)
    found = scorer.score(batches, 0.7)
    for logprobs_R, batch in zip(found, batches, strict=True):
        assert logprobs_R.dtype == np.float32
        with torch.no_grad():
            expected_R = plain_scores(plain, batch, temperature=0.7)[0]
        np.testing.assert_allclose(logprobs_R, expected_R.numpy(), atol=2e-5)
    warmer = scorer.score(batches, 1.0)
    assert max(np.abs(a - b).max() for a, b in zip(found, warmer, strict=True)) > 0.1
