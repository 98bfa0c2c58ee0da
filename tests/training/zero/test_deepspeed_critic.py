"""One real rank: updates equal plain torch, steps are idempotent, the export is a reward model.

Several ranks are in tests/system/test_gradient_parity.py.
"""

import numpy as np
import pytest
import torch
from one_rank import critic
from packed_groups import pack_into, random_groups, relative_difference, with_columns
from reward_models import load_plain_classifier, plain_score, plain_values, with_returns

from rlpost.algorithms.critic_loss import CriticLossConfig, CriticObjective
from rlpost.algorithms.diagnostics import merge
from rlpost.errors import RunFailed, UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.training.settings import DType

OBJECTIVE = CriticObjective(loss=CriticLossConfig(clip=None))
STAGES = [0, 1, 2, 3]


def batches(num_micro_batches: int = 3, seed: int = 0):
    packed = pack_into(*random_groups(seed=seed), num_micro_batches=num_micro_batches).batches[0]
    return [with_returns(batch, seed=seed) for batch in packed]


def update(built, step: int, micro_batches=None) -> dict[str, float]:
    tally = built.forward_backward(micro_batches or batches(), OBJECTIVE)
    return merge([tally]).metrics() | built.optim_step(step)


def weights(path) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in load_plain_classifier(path).named_parameters()}


def plain_training(path, *, steps: int) -> dict[str, torch.Tensor]:
    """The same updates with a plain model, torch's AdamW and torch's clipping."""
    model = load_plain_classifier(path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(steps):
        for batch in batches():
            error_R = plain_values(model, batch) - torch.from_numpy(batch.columns["returns_R"])
            (0.5 * torch.from_numpy(batch.columns["weight_R"]) * error_R.square()).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {name: param.detach() for name, param in model.named_parameters()}


@pytest.mark.parametrize("stage", STAGES)
def test_updates_equal_plain_torch_and_values_follow_them(tiny_reward, tmp_path, stage):
    with critic(tiny_reward, zero_stage=stage) as built:
        results = [update(built, step) for step in (1, 2, 3)]
        values = built.score(batches())
        built.export(tmp_path / "export")
    expected = plain_training(tiny_reward, steps=3)
    found, start = weights(tmp_path / "export"), weights(tiny_reward)
    moved = {n: expected[n] - start[n] for n in start}
    assert relative_difference({n: found[n] - start[n] for n in start}, moved) < 1e-3
    plain = load_plain_classifier(tiny_reward)
    plain.load_state_dict(expected)
    for values_R, batch in zip(values, batches(), strict=True):
        assert values_R.dtype == np.float32
        with torch.no_grad():
            np.testing.assert_allclose(values_R, plain_values(plain, batch), atol=1e-3)
    assert results[2]["critic/vf_loss"] < results[0]["critic/vf_loss"]
    assert results[0]["critic/loss"] == pytest.approx(results[0]["critic/vf_loss"])
    names = {"critic/lr", "critic/grad_norm", "critic/vf_clipfrac", "critic/vf_explained_var"}
    assert names <= results[0].keys()
    assert not [name for name in results[0] if name.startswith("actor/")]
    assert results[0]["perf/critic_memory_gb"] > 0


def test_explained_variance_is_that_of_the_whole_batch(tiny_reward):
    whole = batches()
    with critic(tiny_reward) as built:
        found = update(built, 1, whole)["critic/vf_explained_var"]
    returns, old = (
        np.concatenate([b.columns[n] for b in whole]) for n in ("returns_R", "rollout_values_R")
    )
    assert found == pytest.approx(1 - np.var(returns - old) / np.var(returns), rel=1e-5)


def test_masked_tokens_may_hold_anything(tiny_reward):
    (batch,) = batches(1)
    weight_R, returns_R = (batch.columns[n].copy() for n in ("weight_R", "returns_R"))
    weight_R[:3], returns_R[:3] = 0.0, np.nan
    masked = with_columns(batch, weight_R=weight_R, returns_R=returns_R)
    with critic(tiny_reward) as built:
        result = update(built, 1, [masked])
    assert result["critic/skipped_update"] == 0
    assert np.isfinite(result["critic/loss"])


def test_a_critic_cannot_learn_without_returns(tiny_reward):
    bare = pack_into(*random_groups()).batches[0]
    with (
        critic(tiny_reward) as built,
        pytest.raises(AssertionError, match="no returns_R, rollout_values_R"),
    ):
        built.forward_backward(bare, OBJECTIVE)


def poisoned():
    (batch,) = batches(1)
    return [with_columns(batch, returns_R=np.full_like(batch.columns["returns_R"], np.nan))]


@pytest.mark.parametrize("stage", [0, 2])
def test_a_non_finite_gradient_changes_nothing(tiny_reward, stage):
    with critic(tiny_reward, zero_stage=stage, stop_after_nonfinite=2) as built:
        update(built, 1)
        before = built.score(batches())
        assert update(built, 2, poisoned())["critic/skipped_update"] == 1
        assert all(map(np.array_equal, built.score(batches()), before))
        update(built, 3)
        assert not all(map(np.array_equal, built.score(batches()), before))
        update(built, 4, poisoned())
        with pytest.raises(RunFailed, match=r"Lower critic\.lr"):
            update(built, 5, poisoned())


def test_a_step_is_applied_once_per_id(tiny_reward):
    with critic(tiny_reward) as built:
        first = update(built, 4)
        once = built.score(batches())
        assert built.optim_step(4).items() <= first.items()
        assert all(map(np.array_equal, built.score(batches()), once))


@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, DType.float32), (2, DType.bfloat16), (3, DType.bfloat16)]
)
def test_a_loaded_critic_goes_on_bit_for_bit(tiny_reward, tmp_path, stage, dtype):
    options = {"zero_stage": stage, "dtype": dtype}
    with critic(tiny_reward, **options) as built:
        update(built, 1)
        built.begin_save(tmp_path / "state")
        built.finish_save()
        straight = update(built, 2, batches(seed=1))["critic/loss"]
        expected = built.score(batches())
    with critic(tiny_reward, **options) as built:
        built.load(tmp_path / "state")
        assert update(built, 2, batches(seed=1))["critic/loss"] == straight
        assert all(map(np.array_equal, built.score(batches()), expected))


@pytest.mark.parametrize("stage", [1, 3])
def test_a_critic_from_the_policy_learns_and_is_exported_as_a_reward_model(
    tiny_model, tmp_path, stage
):
    from transformers import AutoConfig, AutoTokenizer

    sequence = batches(1)[0].token_ids_T[: batches(1)[0].blocks[0].responses[0][1]].tolist()
    with critic(tiny_model, zero_stage=stage) as built:
        assert not np.concatenate(built.score(batches())).any()
        update(built, 1)
        values = np.concatenate(built.score(batches()))
        built.export(tmp_path / "export")
    assert values.any()
    config = AutoConfig.from_pretrained(tmp_path / "export")
    assert config.architectures == ["LlamaForSequenceClassification"]
    assert "rlpost_packed" not in (tmp_path / "export" / "config.json").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "export").chat_template
    exported = load_plain_classifier(tmp_path / "export")
    with torch.no_grad():
        again = torch.cat([plain_values(exported, batch) for batch in batches()])
    np.testing.assert_allclose(again, values, atol=2e-5)
    assert plain_score(exported, sequence) != 0
    with critic(tmp_path / "export", policy_path=tiny_model) as built:
        resumed = np.concatenate(built.score(batches()))
    np.testing.assert_allclose(resumed, values, atol=2e-5)


def test_a_critic_that_reads_other_tokens_is_refused(tiny_model, tmp_path):
    other = build_tiny_llama(tmp_path / "other", seed=1)
    tokens = other / "tokenizer.json"
    tokens.write_text(tokens.read_text().replace('"!"', '"@@"'))
    with (
        pytest.raises(UserError, match=r"critic\.init_from: .* tokenizer of the policy"),
        critic(other, policy_path=tiny_model),
    ):
        pass
