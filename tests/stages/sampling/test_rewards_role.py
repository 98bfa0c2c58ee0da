"""What is asked of reward models before anything starts."""

import pytest
from reward_models import build_step_model

from rlpost.errors import UserError
from rlpost.models.tiny import byte_tokenizer
from rlpost.stages.sampling.rewards_role import check_reward_models
from rlpost.training.reward.settings import RewardModelConfig


def checked(path, **options) -> dict[str, str]:
    return check_reward_models({"taste": RewardModelConfig(path=str(path), **options)})


def test_decoders_are_divided_and_encoders_are_not(tiny_reward, tiny_model, tmp_path):
    from transformers import AutoModelForSequenceClassification, BertConfig

    steps = build_step_model(tmp_path / "steps", tiny_model)
    for path in (tiny_reward, steps):
        assert checked(path, zero_stage=3, num_ranks=2) == {"taste": str(path)}
    config = BertConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, num_labels=1,
    )  # fmt: skip
    encoder = tmp_path / "encoder"
    AutoModelForSequenceClassification.from_config(config).save_pretrained(encoder)
    byte_tokenizer().save_pretrained(encoder)
    assert checked(encoder) == {"taste": str(encoder)}
    with pytest.raises(UserError, match=r"^reward_models\.taste\.zero_stage=3 .*taste\.path: Bert"):
        checked(encoder, zero_stage=3, num_ranks=2)
