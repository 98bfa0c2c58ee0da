"""Critic and reward model as Ray actors, driven as a stage drives them."""

import numpy as np
import pytest
import torch
from packed_groups import pack_into, random_groups
from reward_models import load_plain_classifier, plain_score, plain_values, with_returns

from rlpost.algorithms.critic_loss import CriticLossConfig, CriticObjective
from rlpost.cluster.ranks import rank_name
from rlpost.cluster.reward import reward_name, spawn_reward
from rlpost.cluster.session import ClusterConfig, Session
from rlpost.cluster.trained import spawn_trained
from rlpost.control.placement import ActorSpec
from rlpost.training.critic_settings import CriticConfig
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.pack import Packed
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.training.settings import DType, TrainerConfig

COMMON = {"call_timeout_s": 120.0}
ACTORS = [
    *(ActorSpec(name=rank_name("critic", rank), role="critic") for rank in range(2)),
    ActorSpec(name=reward_name("helpful"), role="reward"),
]
OBJECTIVE = CriticObjective(loss=CriticLossConfig())


@pytest.fixture(scope="module")
def session():
    with Session(ClusterConfig()) as session:
        session.place(ACTORS)
        yield session


def packed() -> Packed:
    bare = pack_into(*random_groups(), num_ranks=2, num_micro_batches=2)
    return Packed(batches=[[with_returns(batch) for batch in mine] for mine in bare.batches])


async def test_two_critic_ranks_learn_save_and_export(session, tiny_model, tiny_reward, tmp_path):
    policy = TrainerConfig(dtype=DType.float32, threads=1, num_ranks=2)
    cfg = CriticConfig(lr=1e-3).trainer(policy)
    model = TrainedModel.critic(str(tiny_reward), policy_path=str(tiny_model))
    critic = spawn_trained(session, cfg, group="critic", model=model, seed=0, **COMMON)
    size = await critic.setup()
    plain = load_plain_classifier(tiny_reward)
    assert size == sum(p.numel() for p in plain.parameters())
    scored = packed()
    batches = scored.batches
    for rank_batches, rank_values in zip(batches, await critic.score(scored), strict=True):
        for batch, values_R in zip(rank_batches, rank_values, strict=True):
            with torch.no_grad():
                np.testing.assert_allclose(values_R, plain_values(plain, batch), atol=2e-5)
    losses = []
    for step in (1, 2):
        metrics = await critic.forward_backward(packed(), OBJECTIVE)
        losses.append(metrics["critic/vf_loss"])
        result = await critic.optim_step(step)
        assert result["critic/lr"] == 1e-3
    assert losses[1] < losses[0]
    await critic.begin_save(tmp_path / "state")
    await critic.finish_save()
    await critic.load(tmp_path / "state")
    assert (await critic.optim_step(2))["critic/grad_norm"] == result["critic/grad_norm"]
    await critic.export(tmp_path / "export")
    exported, values = load_plain_classifier(tmp_path / "export"), await critic.score(scored)
    with torch.no_grad():
        np.testing.assert_allclose(values[0][0], plain_values(exported, batches[0][0]), atol=2e-5)
    await critic.close()


async def test_a_reward_model_judges_groups(session, tiny_model, tiny_reward):
    configs = {"helpful": RewardModelConfig(path=str(tiny_reward), weight=0.5, threads=1)}
    paths = {"helpful": str(tiny_reward)}
    rewards = spawn_reward(
        session, configs, model_paths=paths, policy_path=str(tiny_model), **COMMON
    )
    (group, *_), _ = random_groups()
    judged = await rewards.judge(group)
    plain = load_plain_classifier(tiny_reward)
    for episode, (verdict,) in zip(group.episodes, judged, strict=True):
        ids = [*group.prompt.token_ids, *episode.response_ids]
        if ids[-1] != plain.config.pad_token_id:
            assert verdict.reward == pytest.approx(plain_score(plain, ids), abs=1e-5)
