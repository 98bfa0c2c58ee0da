"""What engines that compute in fewer bits are refused, and what is said of them."""

import pytest

from rlpost.errors import UserError
from rlpost.models.shape import ModelShape
from rlpost.rollout.generator_config import (
    GeneratorConfig,
    GeneratorDtype,
    KVCacheDtype,
    Quantization,
)
from rlpost.rollout.vllm.memory import generator_footprint
from rlpost.rollout.vllm.quantization import quantization_notes, require_quantizable

BLOCKS = {"quantization": Quantization.fp8_per_block, "dtype": GeneratorDtype.bfloat16}
CACHE = {"kv_cache_dtype": KVCacheDtype.fp8}


def require(options, *, on_gpu=False, head_dim=64, has_avx512=True) -> None:
    cfg = GeneratorConfig(**options)
    require_quantizable(cfg, on_gpu=on_gpu, head_dim=head_dim, has_avx512=has_avx512)


@pytest.mark.parametrize(
    ("options", "machine", "error"),
    [
        (BLOCKS, {}, r"generator\.quantization=fp8_per_block needs a GPU.*kv_cache_dtype=fp8"),
        (
            BLOCKS | {"dtype": GeneratorDtype.float32},
            {"on_gpu": True},
            "dtype is float32; set generator.dtype=bfloat16",
        ),
        (CACHE, {"has_avx512": False}, "kv_cache_dtype=fp8 needs a CPU with AVX-512"),
        (CACHE, {"head_dim": 80}, "multiple of 32 values on a CPU, and this model's have 80"),
    ],
)
def test_what_cannot_be_computed_is_refused(options, machine, error):
    with pytest.raises(UserError, match=error):
        require(options, **machine)


def test_what_can_be_is_not():
    require(BLOCKS | CACHE, on_gpu=True, head_dim=80, has_avx512=False)
    require(CACHE)
    require({}, head_dim=80, has_avx512=False)


@pytest.mark.parametrize(("corrected", "advised"), [(False, True), (True, False), (None, False)])
def test_the_difference_is_said_and_a_correction_advised(corrected, advised):
    (note,) = quantization_notes(GeneratorConfig(**BLOCKS, **CACHE), bound=0.3, corrected=corrected)
    assert "weights in fp8_per_block and keep keys and values in fp8" in note
    assert "0.3 nats on average" in note
    assert ("algorithm/corrections=[tis]" in note) is advised
    assert quantization_notes(GeneratorConfig(), bound=0.1, corrected=False) == []


def test_weights_of_linear_layers_take_a_byte():
    shape = ModelShape(
        parameters=100_000, layers=2, width=100, feed_forward=200, heads=2, kv_heads=1,
        head_dim=50, vocabulary=300, tied=True,
    )  # fmt: skip

    def weights(**options) -> float:
        cfg = GeneratorConfig(**options)
        prints = generator_footprint("g", shape, cfg, value_bytes=2, gpu_bytes=1e9)
        (gpu,) = (each for each in prints if each.on_gpu)
        return gpu.kept["weights"]

    assert weights() == 200_000
    assert weights(**BLOCKS) == 70_000 + 2 * 30_000
