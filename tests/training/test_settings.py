"""The trainer's options: defaults are valid, each rule refuses what it names."""

import subprocess
import sys

import pytest

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.stages.distill.teacher_settings import TeacherConfig
from rlpost.training.reward.settings import RewardEngine, RewardModelConfig
from rlpost.training.settings import (
    ReduceDType,
    ReferenceRanksConfig,
    TrainerConfig,
    require_reference,
)


def test_the_defaults_and_both_ends_are_valid():
    check_config(TrainerConfig(), "trainer")
    check_config(
        TrainerConfig(max_grad_norm=0.0, zero_stage=0, threads=1, warmup_steps=99), "trainer"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("num_ranks", 0),
        ("max_tokens_per_micro_batch", 1),
        ("logprob_chunk", 0),
        ("stop_after_nonfinite", 0),
        ("threads", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("eps", 0.0),
        ("weight_decay", -0.1),
        ("max_grad_norm", -1.0),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("warmup_steps", -1),
        ("warmup_steps", 100),
        ("zero_stage", 4),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value(field, value):
    with pytest.raises(UserError, match=rf"policy_trainer\.{field} .*{value}"):
        check_config(TrainerConfig(**{field: value}), "policy_trainer")


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_only_stage_3_gives_its_optimizer_away(stage):
    check_config(TrainerConfig(offload_optimizer=True, zero_stage=3), "trainer")
    with pytest.raises(UserError, match=rf"trainer\.offload_optimizer=true .* got {stage}: "):
        check_config(TrainerConfig(offload_optimizer=True, zero_stage=stage), "trainer")


def test_one_rank_has_nothing_to_add_up():
    check_config(TrainerConfig(reduce_dtype=ReduceDType.bfloat16, num_ranks=2), "trainer")
    with pytest.raises(UserError, match=r"^trainer\.reduce_dtype=bfloat16 has no effect with "):
        check_config(TrainerConfig(reduce_dtype=ReduceDType.bfloat16), "trainer")


def test_several_copies_of_a_reference_need_one():
    one, two = ReferenceRanksConfig(), ReferenceRanksConfig(num_ranks=2)
    require_reference(one, exists=False, way_out="set x")
    require_reference(two, exists=True, way_out="set x")
    with pytest.raises(UserError, match=r"reference\.num_ranks=2 has no effect.*, or set x"):
        require_reference(two, exists=False, way_out="set x")


def test_a_divided_reference_needs_one_too():
    divided = ReferenceRanksConfig(zero_stage=3)
    require_reference(divided, exists=True, way_out="set x")
    with pytest.raises(UserError, match=r"reference\.zero_stage=3 has no effect.*, or set x"):
        require_reference(divided, exists=False, way_out="set x")


@pytest.mark.parametrize("stage", [1, 2])
def test_a_frozen_model_has_nothing_but_weights_to_divide(stage):
    check_config(ReferenceRanksConfig(zero_stage=3), "reference")  # by one rank as by several
    with pytest.raises(UserError, match=rf"reference\.zero_stage must be 0 or 3, got {stage}: "):
        check_config(ReferenceRanksConfig(zero_stage=stage), "reference")
    with pytest.raises(UserError, match=rf"teacher\.zero_stage must be 0 or 3, got {stage}: "):
        check_config(TeacherConfig(zero_stage=stage), "teacher")


def test_ranks_of_a_reward_model_divide_it():
    def check(**options):
        check_config(RewardModelConfig(path="x", **options), "reward_models.taste")

    check(zero_stage=3, num_ranks=2)
    refused = {
        r"taste\.num_ranks=2 has no effect with reward_models\.taste\.zero_stage=0": {
            "num_ranks": 2
        },
        r"taste\.zero_stage=3 divides the weights of .*, got vllm": {
            "zero_stage": 3,
            "engine": RewardEngine.vllm,
        },
        r"taste\.zero_stage must be 0 or 3, got 1": {"zero_stage": 1},
    }
    for message, options in refused.items():
        with pytest.raises(UserError, match=message):
            check(**options)


def test_threads_are_shared_but_never_zero():
    assert TrainerConfig(threads=3, num_ranks=2).threads_per_rank() == 3
    assert TrainerConfig(num_ranks=10_000).threads_per_rank() == 1
    assert TrainerConfig().threads_per_rank() >= 1


def test_the_options_need_no_torch():
    code = "import sys, rlpost.training.settings as s; s.TrainerConfig().check('trainer')"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
