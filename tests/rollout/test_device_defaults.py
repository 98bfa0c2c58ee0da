"""What the options of generators mean that were left at null."""

from dataclasses import fields, replace

import pytest

from rlpost.errors import UserError
from rlpost.rollout.device_defaults import (
    groups_at_once,
    in_words,
    require_whole_prompts,
    shortest_length,
    with_device_defaults,
)
from rlpost.rollout.generator_config import GeneratorConfig

FILLED_IN = {
    # option: (on a CPU of 16 cores, on a GPU); two engines of two workers each
    "enforce_eager": (True, False),
    "max_num_seqs": (128, 256),
    "max_num_batched_tokens": (None, 8192),
    "threads": (4, None),
    "kv_cache_gib": (1, None),
    "setup_timeout_s": (300, 1200),
}
GIVEN = GeneratorConfig(
    num=2,
    tensor_parallel_size=2,
    enforce_eager=True,
    max_num_seqs=3,
    max_num_batched_tokens=777,
    threads=5,
    kv_cache_gib=6,
    setup_timeout_s=9,
    max_model_len=64,
)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_null_is_filled_in_for_the_device_and_nothing_else_changes(on_gpu):
    cfg = GeneratorConfig(num=2, tensor_parallel_size=2)
    found = with_device_defaults(cfg, on_gpu=on_gpu, cores=16)
    for option, values in FILLED_IN.items():
        assert getattr(found, option) == values[on_gpu], option
    as_they_were = {option: getattr(cfg, option) for option in FILLED_IN}
    assert replace(found, **as_they_were) == cfg


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("eager", [False, True])
def test_what_is_given_stays(on_gpu, eager):
    cfg = replace(GIVEN, enforce_eager=eager)
    assert with_device_defaults(cfg, on_gpu=on_gpu, cores=16) == cfg


def test_every_option_that_may_be_null_has_a_value_or_a_reason():
    """An option that is added with null as its default must be decided here."""
    nulls = {f.name for f in fields(GeneratorConfig) if f.default is None}
    assert nulls == {*FILLED_IN, "max_model_len", "sleep"}


def test_sequences_are_as_long_as_the_run_has_on_a_gpu_only():
    cfg = GeneratorConfig(max_model_len=4096)  # the model's context

    def length(**options) -> int | None:
        given = {"given": None, "on_gpu": True} | options
        return shortest_length(cfg, longest_prompt=100, max_tokens=28, **given).max_model_len

    assert length() == 128
    assert length(on_gpu=False) == length(given=4096) == 4096


def test_prompts_are_whole_on_a_cpu():
    cfg = GeneratorConfig(max_model_len=64)
    require_whole_prompts(replace(cfg, max_num_batched_tokens=64), on_gpu=False)
    short = replace(cfg, max_num_batched_tokens=63)
    require_whole_prompts(short, on_gpu=True)
    with pytest.raises(UserError, match=r"max_num_batched_tokens must be at least .*=64 .* got 63"):
        require_whole_prompts(short, on_gpu=False)


def test_an_engine_never_waits_for_groups():
    cfg = GeneratorConfig(max_num_seqs=128)
    assert [groups_at_once(cfg, group_size=size) for size in (1, 8, 100)] == [256, 32, 3]


def test_the_sentence_names_what_was_chosen():
    cfg = replace(with_device_defaults(GeneratorConfig(), on_gpu=True, cores=4), max_model_len=96)
    said = in_words(cfg)
    for words in ("256 responses", "96 tokens", "8,192", "compiled", "1200 s"):
        assert words in said
    assert "threads" not in said
    assert "2 threads" in in_words(replace(cfg, threads=2))
