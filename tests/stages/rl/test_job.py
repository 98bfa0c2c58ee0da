"""Verbs of the loop that need no process; the loop itself: tests/simulation/ and tests/system/."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from packed_groups import random_groups

from rlpost.algorithms.advantages import GAEConfig, GRPOConfig, ReinforcePPConfig
from rlpost.algorithms.kl import KLConfig, KLForm, KLPlacement
from rlpost.algorithms.kl_controller import KLController
from rlpost.algorithms.losses import ClipConfig
from rlpost.config.schema import AlgorithmConfig, RLConfig
from rlpost.stages.rl.batch import Scores
from rlpost.stages.rl.job import RLJob
from rlpost.verifiers.kinds.exact import ExactConfig

KL = KLConfig(coefficient=0.1, placement=KLPlacement.reward, form=KLForm.k1)


def run_of(algorithm: AlgorithmConfig) -> RLJob:
    cfg = RLConfig(verifier=ExactConfig(), loss=ClipConfig(), algorithm=algorithm)
    parts = SimpleNamespace(
        cfg=cfg,
        run=SimpleNamespace(step=0),
        kl_controller=KLController(cfg.algorithm.kl.coefficient, cfg.algorithm.kl.adaptive),
    )
    return RLJob(parts)


@pytest.mark.parametrize(
    "algorithm",
    [
        AlgorithmConfig(advantage=GRPOConfig()),
        AlgorithmConfig(advantage=GAEConfig()),
        AlgorithmConfig(advantage=ReinforcePPConfig(), kl=KL),
    ],
    ids=["grpo", "gae", "kl in the reward"],
)
def test_a_step_without_any_reward_trains_on_nothing(algorithm):
    """Every verdict failed: no model was asked for what such a step would need."""
    groups, _ = random_groups(num_prompts=2, group_size=3)
    failed = [
        replace(g, episodes=tuple(replace(e, reward=None) for e in g.episodes)) for g in groups
    ]
    run = run_of(algorithm)
    assert run.prepare(failed, Scores(), oldest_version=0) == []
    assert run.prepare([], Scores(), oldest_version=0) == []
    assert not run.record.take()
