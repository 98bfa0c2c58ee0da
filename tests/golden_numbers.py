"""Numbers that a change of structure must not change: ``tests/golden.json``.

``python benchmarks/golden.py --store`` writes the file. Nothing here is sampled by an engine:
another CPU may round a logit differently, one other token changes everything after it, and the
file would compare machines. Responses are fixed, or sampled by the simulation's own policy.
Kernels without AVX (``ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41``) give the same
numbers within the test's bound.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from one_rank import critic, trainer
from packed_groups import random_groups
from simulation.scenario import Fault, Scenario, scenario_of
from simulation.world import simulate

from rlpost.algorithms.advantages import GAEConfig, GRPOConfig
from rlpost.algorithms.critic_loss import CriticLossConfig, CriticObjective
from rlpost.algorithms.diagnostics import merge
from rlpost.algorithms.kl import KLConfig, KLForm, KLPlacement
from rlpost.algorithms.losses import ClipConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.config.schema import AlgorithmConfig, RLConfig
from rlpost.stages.rl.batch import Scores, estimate, mini_batches, scoring_batch
from rlpost.stages.rl.units import numbered
from rlpost.types import Group
from rlpost.verifiers.kinds.exact import ExactConfig

FILE = Path(__file__).with_name("golden.json")
SEEDS = range(24)


def computed(model: Path, reward_model: Path) -> dict[str, Any]:
    """Everything that the file holds."""
    return {
        "policy": policy(model),
        "critic": values(reward_model),
        "simulated": {str(seed): simulated(seed)["weights"] for seed in SEEDS},
    }


def policy(model: Path, *, clip_high: float = 0.28) -> dict[str, float]:
    """Metrics of two updates of two mini-batches each, and how far the weights moved."""
    kl = KLConfig(coefficient=0.05, placement=KLPlacement.loss)
    cfg = _config(AlgorithmConfig(advantage=GRPOConfig(), mini_batches=2, kl=kl), clip_high)
    objective = PolicyObjective(loss=cfg.loss, kl=kl, entropy_coefficient=0.01)
    groups, numbers = _judged(), {}
    with trainer(model, lr=1e-4) as rank:  # larger steps would magnify how a CPU rounds
        before = {name: tensor.clone() for name, tensor in rank.served.tensors()}
        unscored = scoring_batch(groups, cfg)
        ref = unscored.by_item([rank.score(mine) for mine in unscored.batches])
        groups = _sampled_by_the_policy(groups, ref)
        scores = Scores(ref_logprobs=ref)
        advantages, _ = estimate(groups, scores, cfg=cfg, kl_coefficient=0.05)
        for _ in range(2):
            for packed in mini_batches(groups, advantages, scores, cfg=cfg, seed=0):
                step = 1 + sum(name.endswith("/actor/lr") for name in numbers)
                tally = rank.forward_backward(packed.batches[0], objective)
                metrics = merge([tally]).metrics() | rank.optim_step(step)
                numbers |= _named(f"update {step}", metrics)
        moved = [
            float((tensor - before[name]).abs().sum()) for name, tensor in rank.served.tensors()
        ]
    return numbers | {"moved": sum(moved)}


def values(reward_model: Path, *, lam: float = 0.95) -> dict[str, float]:
    """Metrics of two updates of the critic towards GAE's returns, KL penalty included."""
    kl = KLConfig(coefficient=0.05, placement=KLPlacement.reward, form=KLForm.k1)
    cfg = _config(AlgorithmConfig(advantage=GAEConfig(lam=lam), kl=kl))
    groups, numbers = _judged(), {}
    with critic(reward_model) as rank:
        unscored = scoring_batch(groups, cfg)
        said = unscored.by_item([rank.score(mine) for mine in unscored.batches])
        scores = Scores(values=said, ref_logprobs=_shifted(groups))
        advantages, _ = estimate(groups, scores, cfg=cfg, kl_coefficient=0.05)
        (packed,) = mini_batches(groups, advantages, scores, cfg=cfg, seed=0)
        for step in (1, 2):
            objective = CriticObjective(loss=CriticLossConfig())
            tally = rank.forward_backward(packed.batches[0], objective)
            metrics = merge([tally]).metrics() | rank.optim_step(step)
            numbers |= _named(f"update {step}", metrics)
    return numbers


def simulated(seed: int) -> dict[str, Any]:
    """A whole run in virtual time, ahead of its weights, whose driver dies after a checkpoint.

    It pushes whole models: an adapter's push stops no request, so other tokens are sampled. Engines
    that leave their device cannot run ahead.
    """
    scenario = replace(
        scenario_of(seed).without_faults(),
        max_staleness=1 + seed % 3,
        interrupt_after=None,
        adapters=False,
        turns=False,
    )
    result = simulate(_with_a_dead_driver(scenario) if seed % 2 else scenario)
    assert result.violation is None, (seed, result.violation)
    return {
        "outcome": result.outcome,
        "lives": result.lives,
        "trained_on": {str(step): groups for step, groups in result.trained_on.items()},
        "weights": list(result.weights),
    }


def _with_a_dead_driver(scenario: Scenario) -> Scenario:
    return replace(scenario, faults=(Fault(kind="crash", target="driver", verb="commit ends"),))


def _config(algorithm: AlgorithmConfig, clip_high: float = 0.2) -> RLConfig:
    loss = ClipConfig(clip_high=clip_high)
    return RLConfig(verifier=ExactConfig(), loss=loss, algorithm=algorithm)


def _judged() -> list[Group]:
    groups, rewards = random_groups(num_prompts=6, group_size=4, seed=7)
    return [
        replace(
            group,
            episodes=tuple(
                replace(e, reward=float(reward))
                for e, reward in zip(group.episodes, row, strict=True)
            ),
        )
        for group, row in zip(groups, np.round(np.tanh(rewards), 2), strict=True)
    ]


def _sampled_by_the_policy(groups: list[Group], logprobs: Mapping[int, np.ndarray]) -> list[Group]:
    """Give responses log-probs near the policy's own, so that some ratios are clipped."""
    number, told, draw = 0, [], np.random.default_rng(3)
    for group in groups:
        episodes = []
        for episode in group.episodes:
            near = logprobs[number] + draw.normal(scale=0.3, size=len(logprobs[number]))
            (sampled,) = episode.trajectories
            sampled = replace(sampled, rollout_logprobs=tuple(near.tolist()))
            episodes.append(replace(episode, trajectories=(sampled,)))
            number += 1
        told.append(replace(group, episodes=tuple(episodes)))
    return told


def _shifted(groups: list[Group]) -> dict[int, np.ndarray]:
    return {e.number: np.asarray(e.trajectory.rollout_logprobs) - 0.5 for e in numbered(groups)}


def _named(update: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Without what depends on the machine."""
    return {f"{update}/{k}": v for k, v in metrics.items() if not k.startswith("perf/")}
