"""What DeepSpeed is told: nothing that changes the arithmetic is left to its defaults."""

import pytest
import torch

from rlpost.training.settings import ReduceDType, TrainerConfig
from rlpost.training.zero.deepspeed_engine import engine_config


def config(dtype=torch.float32, *, on_gpu=False, size=1000, **options):
    cfg = TrainerConfig(**options)
    return engine_config(cfg, dtype=dtype, hidden_size=64, num_parameters=size, on_gpu=on_gpu)


@pytest.mark.parametrize("norm", [0.0, 0.3])
def test_clipping_is_always_stated(norm):
    """DeepSpeed clips at 1.0 when the key is absent."""
    assert config(max_grad_norm=norm)["gradient_clipping"] == norm


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_sums_gradients_in_float32(stage):
    found = config(torch.bfloat16, zero_stage=stage)
    assert found["bf16"] == {"enabled": True}
    assert found["data_types"] == {"grad_accum_dtype": "fp32"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("reduced", "name", "values"),
    [(ReduceDType.float32, "fp32", 250_000_000), (ReduceDType.bfloat16, "bf16", 500_000_000)],
)
def test_what_ranks_add_up_in_is_stated_and_takes_a_gigabyte_at_a_time(
    dtype, reduced, name, values
):
    """DeepSpeed takes what it computes in when the key is absent."""
    found = config(dtype, reduce_dtype=reduced, size=10**12)
    assert found["communication_data_type"] == name
    assert found["zero_optimization"]["reduce_bucket_size"] == values
    assert config(reduce_dtype=reduced)["zero_optimization"]["reduce_bucket_size"] == 1000


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_only_stage_3_on_gpus_sends_each_rank_its_part_alone(stage):
    found = [config(zero_stage=stage, on_gpu=on_gpu) for on_gpu in (False, True)]
    scatters = [each["zero_optimization"]["reduce_scatter"] for each in found]
    assert scatters == [False, stage == 3]


def test_float32_asks_for_no_mixed_precision():
    assert not {"bf16", "data_types", "fp16"} & config().keys()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_only_stage_3_on_gpus_gathers_beside_the_computation(stage):
    def overlaps(*, on_gpu: bool) -> bool:
        found = config(zero_stage=stage, on_gpu=on_gpu)
        return found["zero_optimization"]["overlap_comm"]

    assert overlaps(on_gpu=True) is (stage == 3)
    assert not overlaps(on_gpu=False)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_an_offloaded_optimizer_is_in_pinned_memory_where_there_is_a_gpu(on_gpu):
    offloaded = config(zero_stage=3, offload_optimizer=True, on_gpu=on_gpu)
    found = offloaded["zero_optimization"]["offload_optimizer"]
    assert found == {"device": "cpu", "pin_memory": on_gpu}
    assert offloaded["zero_force_ds_cpu_optimizer"] is False
    assert "offload_optimizer" not in config(zero_stage=3)["zero_optimization"]
