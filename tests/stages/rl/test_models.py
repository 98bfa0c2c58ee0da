"""All models of a run are checked before anything starts, each under the field that names it."""

import json

import pytest
from tiny_families import build_tiny_family

from rlpost.config.schema import ModelConfig, RLConfig
from rlpost.errors import UserError
from rlpost.stages.rl.models import check_models
from rlpost.training.adapters.config import NoAdapterConfig
from rlpost.training.critic_settings import CriticConfig
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.verifiers.kinds.exact import ExactConfig


def config(path, **fields) -> RLConfig:
    model = ModelConfig(path=str(path))
    return RLConfig(verifier=ExactConfig(), adapter=NoAdapterConfig(), model=model, **fields)


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt2", "gpt_neox", "gemma2"])
def test_what_can_be_trained_passes(family, tmp_path):
    path = build_tiny_family(tmp_path / "m", family)
    models = check_models(config(path))
    assert models.policy == models.critic == str(path)
    assert models.tokenizer.eos_token == "<|im_end|>"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]  # the trial export left nothing


@pytest.mark.parametrize("family", ["nemotron", "gpt_oss"])
def test_what_cannot_is_refused_with_its_name(family, tmp_path):
    path = build_tiny_family(tmp_path / "m", family)
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    with pytest.raises(UserError, match=rf"^model\.path: {name} "):
        check_models(config(path))


def test_the_other_models_are_checked_under_their_own_fields(tmp_path, tiny_model, tiny_reward):
    broken = build_tiny_family(tmp_path / "m", "llama")
    (broken / "config.json").write_text("{")
    critic = CriticConfig(init_from=str(broken))
    with pytest.raises(UserError, match=r"^critic\.init_from: .*config\.json"):
        check_models(config(tiny_model, critic=critic))
    rewards = {"taste": RewardModelConfig(path=str(broken))}
    with pytest.raises(UserError, match=r"^reward_models\.taste\.path: .*config\.json"):
        check_models(config(tiny_model, reward_models=rewards))
    rewards = {"taste": RewardModelConfig(path=str(tiny_reward))}
    assert check_models(config(tiny_model, reward_models=rewards)).rewards == {
        "taste": str(tiny_reward)
    }
