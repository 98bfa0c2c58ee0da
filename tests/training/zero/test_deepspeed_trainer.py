"""One real rank: updates equal plain torch, steps are idempotent, NaN changes nothing.

Several ranks are in tests/system/test_gradient_parity.py.
"""

import numpy as np
import pytest
import torch
from listening import listeners
from one_rank import trainer
from packed_groups import (
    load_plain,
    pack_into,
    plain_scores,
    random_groups,
    relative_difference,
    with_columns,
)
from safetensors.torch import load_file
from tiny_families import build_tiny_family

from rlpost.algorithms.diagnostics import merge
from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ClipConfig, ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.errors import RunFailed
from rlpost.training.settings import DType, LRSchedule

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
STAGES = [0, 1, 2, 3]
# Each stage and each dtype; both where the weights are divided.
STATES = [
    (0, DType.float32),
    (1, DType.bfloat16),
    (2, DType.bfloat16),
    (3, DType.float32),
    (3, DType.bfloat16),
]


def batches(num_micro_batches: int = 3, seed: int = 0):
    return pack_into(*random_groups(seed=seed), num_micro_batches=num_micro_batches).batches[0]


def update(built, step: int, micro_batches=None) -> dict[str, float]:
    tally = built.forward_backward(micro_batches or batches(), OBJECTIVE)
    return merge([tally]).metrics() | built.optim_step(step)


def weights(built) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in built.served.tensors()}


def test_the_ranks_meet_on_the_masters_address_alone(tiny_model, counted):
    before = listeners()
    with trainer(tiny_model):
        assert {host for host, _ in listeners() - before} == {"127.0.0.1"}
    assert counted() == ["deepspeed_starts"]


def poisoned():
    """Three micro-batches, the middle one with one NaN advantage."""
    first, second, third = batches()
    advantages_R = second.columns["advantages_R"].copy()
    advantages_R[0] = np.nan
    return [first, with_columns(second, advantages_R=advantages_R), third]


def plain_training(path, *, steps: int, options) -> dict[str, torch.Tensor]:
    """The same updates with a plain model, torch's AdamW and torch's clipping."""
    model = load_plain(path)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=options["weight_decay"])
    for step in range(1, steps + 1):
        loss = sum(
            (
                torch.from_numpy(batch.columns["weight_R"] * -batch.columns["advantages_R"])
                * plain_scores(model, batch)[0]
            ).sum()
            for batch in batches()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_grad_norm"])
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - (step - 1) / options["steps"])
        optimizer.step()
        optimizer.zero_grad()
    return {name: param.detach() for name, param in model.named_parameters()}


@pytest.mark.parametrize("stage", STAGES)
def test_updates_equal_plain_torch(tiny_model, stage):
    options = {
        "steps": 4,
        "lr_schedule": LRSchedule.linear,
        "weight_decay": 0.1,
        "max_grad_norm": 0.05,
    }
    with trainer(tiny_model, zero_stage=stage, **options) as built:
        results = [update(built, step) for step in (1, 2, 3)]
        found = weights(built)
    assert [r["actor/lr"] for r in results] == pytest.approx([1e-3, 7.5e-4, 5e-4])
    assert results[0]["actor/grad_norm"] > 0.05  # so clipping took part
    start = {n: p.detach() for n, p in load_plain(tiny_model).named_parameters()}
    expected = plain_training(tiny_model, steps=3, options=options)
    moved = {n: expected[n] - start[n] for n in start}
    assert relative_difference({n: found[n] - start[n] for n in start}, moved) < 1e-3
    assert relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize(("stage", "dtype"), STATES)
def test_a_non_finite_gradient_changes_nothing_and_training_goes_on(tiny_model, stage, dtype):
    with trainer(tiny_model, zero_stage=stage, dtype=dtype) as built:
        update(built, 1)
        before = weights(built)
        skipped = update(built, 2, poisoned())
        assert skipped["actor/skipped_update"] == 1
        assert "actor/grad_norm" not in skipped
        after = weights(built)
        assert all(torch.equal(before[n], after[n]) for n in before)
        assert update(built, 3)["actor/skipped_update"] == 0
        resumed = weights(built)
    with trainer(tiny_model, zero_stage=stage, dtype=dtype) as built:
        update(built, 1)
        update(built, 3)
        unpoisoned = weights(built)
    assert all(torch.equal(resumed[n], unpoisoned[n]) for n in resumed)
    assert (
        relative_difference(
            {n: t.float() for n, t in resumed.items()}, {n: t.float() for n, t in before.items()}
        )
        > 1e-4
    )  # negative control: an update is visible


def test_non_finite_gradients_in_a_row_end_the_run(tiny_model):
    with trainer(tiny_model, stop_after_nonfinite=2) as built:
        update(built, 1, poisoned())
        update(built, 2)  # a good step starts the count again
        update(built, 3, poisoned())
        with pytest.raises(RunFailed, match="2 steps in a row"):
            update(built, 4, poisoned())


def test_a_step_is_applied_once_per_id(tiny_model):
    with trainer(tiny_model) as built:
        first = update(built, 4)
        once = weights(built)
        assert built.optim_step(4) == {k: v for k, v in first.items() if k in built.optim_step(4)}
        assert all(torch.equal(once[n], t) for n, t in weights(built).items())
        with pytest.raises(AssertionError, match="after step 4"):
            built.optim_step(3)
        with pytest.raises(AssertionError, match="has not run"):
            built.optim_step(5)
        built.forward_backward(batches(), OBJECTIVE)
        with pytest.raises(AssertionError, match="new gradients"):
            built.optim_step(4)
        with pytest.raises(AssertionError, match="consume"):
            built.forward_backward(batches(), OBJECTIVE)
        built.optim_step(5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_first_ratio_is_one_when_the_sampler_holds_the_same_weights(tiny_model, temperature):
    plain = load_plain(tiny_model)
    on_policy = []
    for batch in batches():
        with torch.no_grad():
            logprobs_R, _ = plain_scores(plain, batch, temperature=temperature)
        on_policy.append(with_columns(batch, rollout_logprobs_R=logprobs_R.numpy()))
    objective = PolicyObjective(loss=ClipConfig(), kl=KLConfig())
    with trainer(tiny_model) as built:
        tally = built.forward_backward(on_policy, objective, temperature=temperature)
        metrics = merge([tally]).metrics()
        built.optim_step(1)
        built.forward_backward(on_policy, objective, temperature=temperature * 1.1)
    assert metrics["actor/ratio/max_deviation"] < 1e-4
    assert metrics["training/rollout_probs_diff_max"] < 1e-4
    assert metrics["actor/pg_clipfrac"] == 0


def test_a_wrong_temperature_shows_in_the_ratio(tiny_model):
    plain = load_plain(tiny_model)
    (batch,) = batches(1)
    with torch.no_grad():
        logprobs_R, _ = plain_scores(plain, batch, temperature=0.6)
    batch = with_columns(batch, rollout_logprobs_R=logprobs_R.numpy())
    with trainer(tiny_model) as built:
        tally = built.forward_backward([batch], OBJECTIVE)
    assert merge([tally]).metrics()["actor/ratio/max_deviation"] > 0.1


def test_masked_tokens_may_hold_anything(tiny_model):
    """Weight 0 beside an infinite value must not become NaN."""
    (batch,) = batches(1)
    weight_R, advantages_R = (batch.columns[name].copy() for name in ("weight_R", "advantages_R"))
    weight_R[:3], advantages_R[:3] = 0.0, np.inf
    masked = with_columns(batch, weight_R=weight_R, advantages_R=advantages_R)
    with trainer(tiny_model) as built:
        result = update(built, 1, [masked])
    assert result["actor/skipped_update"] == 0
    assert np.isfinite(result["actor/loss"])


@pytest.mark.parametrize("stage", [0, 2, 3])  # in float32 stage 1 has the engine of stage 2
def test_log_probs_between_updates_follow_the_weights(tiny_model, stage):
    plain = load_plain(tiny_model)
    with trainer(tiny_model, zero_stage=stage) as built:
        for step in (1, 2):
            update(built, step)
            plain.load_state_dict(weights(built), strict=False)
            plain.tie_weights()
            for logprobs_R, batch in zip(built.score(batches(), 0.9), batches(), strict=True):
                with torch.no_grad():
                    expected_R, _ = plain_scores(plain, batch, temperature=0.9)
                np.testing.assert_allclose(logprobs_R, expected_R.numpy(), atol=5e-5)
        first, second = built.probe_logprobs([[1, 2, 3], [4, 5, 6, 7]])
    with torch.no_grad():
        log_TV = plain(torch.tensor([[4, 5, 6, 7]])).logits[0].log_softmax(-1)
    assert len(first) == 2
    assert second == pytest.approx([log_TV[i, 5 + i].item() for i in range(3)], abs=5e-5)


@pytest.mark.parametrize(("stage", "dtype"), STATES)
def test_a_loaded_trainer_goes_on_bit_for_bit(tiny_model, tmp_path, stage, dtype):
    options = {"zero_stage": stage, "dtype": dtype}
    with trainer(tiny_model, **options) as built:
        update(built, 1)
        saved = update(built, 2)
        built.begin_save(tmp_path / "state")
        straight = [update(built, step, batches(seed=step))["actor/loss"] for step in (3, 4)]
        expected = weights(built)
        built.finish_save()
    with trainer(tiny_model, **options) as built:
        built.load(tmp_path / "state")
        assert built.optim_step(2)["actor/grad_norm"] == saved["actor/grad_norm"]
        resumed = [update(built, step, batches(seed=step))["actor/loss"] for step in (3, 4)]
        found = weights(built)
    assert resumed == straight
    assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.fixture(scope="module")
def tiny_mixture(tmp_path_factory):
    """A mixture of experts, which transformers fuses and a checkpoint holds one by one."""
    return build_tiny_family(tmp_path_factory.mktemp("models") / "mixture", "qwen3_moe")


@pytest.mark.parametrize(  # each model where its weights are divided
    ("fixture", "stage"),
    [
        ("tiny_model", 0),
        ("tiny_model", 2),
        ("tiny_model", 3),
        ("tiny_untied_model", 3),
        ("tiny_mixture", 3),
    ],
)
def test_the_export_is_an_ordinary_model_directory(fixture, stage, tmp_path, request):
    from transformers import AutoTokenizer

    path = request.getfixturevalue(fixture)
    with trainer(path, zero_stage=stage) as built:
        update(built, 1)
        expected = weights(built)
        assert [(n, t.dtype, tuple(t.shape)) for n, t in expected.items()] == built.served.shapes()
        assert built.num_parameters == sum(t.numel() for t in expected.values())
        built.export(tmp_path / "export")
    load_plain(tmp_path / "export")
    found = load_file(tmp_path / "export" / "model.safetensors")
    assert found.keys() == expected.keys()  # what is exported is what is pushed
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert ("lm_head.weight" in expected) is (fixture != "tiny_model")
    assert any(".experts.3." in n for n in expected) is (fixture == "tiny_mixture")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(path).chat_template
    assert (tmp_path / "export" / "chat_template.jinja").is_file()
    assert "rlpost_packed" not in (tmp_path / "export" / "config.json").read_text()
