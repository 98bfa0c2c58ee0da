"""The roofline's arithmetic, by hand-computed numbers and laws."""

from dataclasses import replace

import pytest
from published_figures import shapes

from rlpost.errors import UserError
from rlpost.roofline.communication import (
    Layout,
    exposed_s,
    gather_s,
    layer_exchanges_s,
    reduce_s,
)
from rlpost.roofline.decoding import Engines, room_tokens, step_s
from rlpost.roofline.devices import BY_NAME, cpu, device_named
from rlpost.roofline.efficiency import EFFICIENCY
from rlpost.roofline.generation import DoesNotFit, Requests, generation_s
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.pushing import push_s
from rlpost.roofline.steps import StepTime
from rlpost.roofline.training import forward_s, update_s
from rlpost.roofline.work import (
    attention_flops,
    chosen_weights,
    expert_weights,
    multiplied,
    touched_weights,
)

MODELS = shapes()
LLAMA, QWEN = MODELS["llama31_8b"], MODELS["qwen3_30b_a3b"]
H100 = BY_NAME["h100"]


def test_what_a_token_is_multiplied_with():
    assert QWEN.active_parameters == pytest.approx(3.35e9, rel=0.01)  # "A3B"
    assert MODELS["deepseek_v3"].active_parameters == pytest.approx(37.5e9, rel=0.01)
    assert multiplied(LLAMA) == LLAMA.parameters - 128256 * 4096  # the embedding is looked up
    assert attention_flops(LLAMA) == 4 * 32 * 4096
    assert LLAMA.kept_values == 32 * 2 * 8 * 128 and MODELS["kimi_k2"].kept_values == 61 * 576


def test_few_tokens_touch_few_experts():
    dense, one = touched_weights(QWEN, 1)
    assert dense + one == pytest.approx(multiplied(QWEN), rel=1e-9)
    assert dense + touched_weights(QWEN, 1e4)[1] == QWEN.parameters - 151936 * 2048
    assert touched_weights(LLAMA, 1) == (multiplied(LLAMA), 0.0)


def test_lengths_keep_their_mean_and_their_bound():
    for mean, longest in ((100, 4096), (3000, 4096), (4000, 4096)):
        points = Lengths(mean=mean, longest=longest).points()
        assert sum(points) / len(points) == pytest.approx(mean, rel=1e-3)
        assert max(points) <= longest and min(points) > 0
    assert set(Lengths(mean=64, longest=64).points()) == {64.0}


def test_a_decoding_step_reads_weights_and_cache():
    k = replace(
        EFFICIENCY,
        memory=1.0,
        lone_memory=1.0,
        cache_memory=1.0,
        host_s=0.0,
        host_token_s=0.0,
        decode_layer_s=0.0,
    )
    found = step_s(LLAMA, H100, Engines(number=1), 4, 1000, k)
    read = 2 * multiplied(LLAMA) + 2 * 4 * 1000 * LLAMA.kept_values
    assert found == pytest.approx(read / 3.35e12)


def test_the_last_responses_of_a_step_run_alone():
    def seconds(lengths, **options):
        requests = Requests(prompts=64, samples=8, prompt_tokens=100, lengths=lengths)
        return generation_s(LLAMA, H100, Engines(number=4), requests, **options)

    even, long_tail = Lengths(mean=800, longest=800), Lengths(mean=800, longest=8000)
    assert seconds(long_tail) > 1.5 * seconds(even)
    hidden = seconds(long_tail, overlapping=4)
    assert hidden < 0.8 * seconds(long_tail)  # the next steps' responses run beside them
    assert seconds(even, overlapping=2) <= seconds(even)


def test_an_engine_makes_the_longest_of_all_responses():
    """The last of 1,024 responses decides, however few of them an engine has."""
    lengths = Lengths(mean=400, longest=4000)
    assert lengths.longest_of(1) < 500 and 2500 < lengths.longest_of(1024) <= 4000
    assert Lengths(mean=64, longest=64).longest_of(1024) == 64.0

    def seconds(engines: int, prompts: int) -> float:
        requests = Requests(prompts=prompts, samples=1, prompt_tokens=10, lengths=lengths)
        return generation_s(LLAMA, H100, Engines(number=engines), requests)

    assert seconds(1, 1) < seconds(4, 4) < seconds(1024, 1024)
    alone = step_s(LLAMA, H100, Engines(number=1), 1, 1000, EFFICIENCY)
    assert seconds(1024, 1024) == pytest.approx(lengths.longest_of(1024) * alone, rel=0.05)


def test_fp8_halves_what_is_read_and_what_is_multiplied():
    k = replace(EFFICIENCY, host_s=0.0, host_token_s=0.0, decode_layer_s=0.0)
    plain = Engines(number=1)
    small = replace(plain, value_bytes=1.0, fp8=True, cache_value_bytes=1.0)
    for sequences in (1, 64, 100_000):  # the last multiplies more than it reads
        context = 1000 if sequences < 100 else 0
        found = step_s(LLAMA, H100, small, sequences, context, k)
        assert found == pytest.approx(step_s(LLAMA, H100, plain, sequences, context, k) / 2)
    a100 = BY_NAME["a100"]  # has no such products
    assert step_s(LLAMA, a100, small, 100_000, 0, k) == step_s(LLAMA, a100, plain, 100_000, 0, k)
    assert room_tokens(LLAMA, H100, small) > 2 * room_tokens(LLAMA, H100, plain)


def test_what_does_not_fit_is_refused():
    requests = Requests(
        prompts=8, samples=8, prompt_tokens=100, lengths=Lengths(mean=900, longest=900)
    )
    with pytest.raises(DoesNotFit, match="an engine of 1 x h100 has room for 0 tokens"):
        generation_s(MODELS["llama3_70b"], H100, Engines(number=1), requests)
    generation_s(MODELS["llama3_70b"], H100, Engines(number=1, tensor=4), requests)
    with pytest.raises(DoesNotFit, match="a sequence may have 1,000"):
        generation_s(LLAMA, cpu(cores=2, features=(), bfloat16=False),
                     Engines(number=1, cache_bytes=1e8), requests)  # fmt: skip


def test_laws_of_training():
    layout = Layout(devices=8, micro_batch_tokens=8192)

    def seconds(**changes):
        options = {"tokens": 8 * 65536, "length": 2048} | changes
        return update_s(LLAMA, H100, options.pop("layout", layout), **options)

    assert seconds(tokens=16 * 65536) == pytest.approx(2 * seconds(), rel=0.02)
    again = seconds(layout=replace(layout, recomputed=1.0))
    assert 1.2 < again / seconds() < 4 / 3 + 0.01
    assert seconds(length=65536) > 1.5 * seconds()  # attention is quadratic
    staged = replace(layout, pipeline=4, micro_batch_tokens=8192)
    assert seconds(layout=staged) > seconds()  # a bubble
    assert seconds(layout=replace(staged, chunks=4)) < seconds(layout=staged)
    scored = forward_s(LLAMA, H100, layout, tokens=8 * 65536, length=2048)
    assert scored == pytest.approx(seconds() / 3, rel=0.05)
    slow = replace(H100, network_bandwidth=1e8)
    wide = replace(layout, devices=16)
    assert update_s(LLAMA, slow, wide, tokens=16 * 8192, length=2048) > 10 * seconds() / 8


def test_what_computation_does_not_hide_is_waited_for():
    k = replace(EFFICIENCY, exposed=0.25)
    assert exposed_s(4.0, beside=10.0, k=k) == 1.0  # a share always
    assert exposed_s(14.0, beside=10.0, k=k) == 4.0


def test_gathering_weights_by_hand():
    k = replace(EFFICIENCY, links=1.0)
    node = Layout(devices=8, micro_batch_tokens=1)
    assert gather_s(LLAMA, H100, node, k) == pytest.approx(2 * LLAMA.parameters / 450e9)
    far = replace(node, devices=16)
    assert gather_s(LLAMA, H100, far, k) == pytest.approx(2 * LLAMA.parameters / 400e9)
    # Each of a node's devices has an eighth, and receives it by its own link.
    divided = replace(far, tensor=8)
    assert gather_s(LLAMA, H100, divided, k) == pytest.approx(2 * LLAMA.parameters / 400e9)
    experts = expert_weights(QWEN)
    owned = replace(node, expert=8)  # no other device has these experts
    assert gather_s(QWEN, H100, owned, k) == pytest.approx(2 * (QWEN.parameters - experts) / 450e9)
    assert chosen_weights(QWEN) == experts * 8 / 128
    assert expert_weights(LLAMA) == chosen_weights(LLAMA) == 0


def test_gradients_in_float32_are_twice_as_long_on_their_way():
    k = replace(EFFICIENCY, links=1.0, exposed=1.0)
    wide = Layout(devices=8, micro_batch_tokens=8192, gradient_bytes=4)
    narrow = replace(wide, gradient_bytes=2)
    once = 2 * LLAMA.parameters / 450e9
    assert reduce_s(LLAMA, H100, narrow, k) == gather_s(LLAMA, H100, wide, k) == once
    assert reduce_s(LLAMA, H100, wide, k) == 2 * once

    def difference(one: Layout, other: Layout) -> float:
        """Of an update in four micro-batches a device, in such times."""
        options = {"tokens": 4 * 8 * 8192, "length": 2048, "k": k}
        seconds = [update_s(LLAMA, H100, each, **options) for each in (one, other)]
        return (seconds[0] - seconds[1]) / once

    assert difference(wide, narrow) == pytest.approx(4)  # in each micro-batch
    stages = [replace(each, zero_stage=1) for each in (wide, narrow)]
    assert difference(*stages) == pytest.approx(1)  # once
    # Each time to all, and the weights after the update: 4 * 2 * 2 + 1 in place of 2 + 1.
    each_time = replace(stages[0], zero_stage=2, reduces_each=True)
    assert difference(each_time, stages[0]) == pytest.approx(14)


def test_ranks_that_divide_a_sequence_exchange_its_heads():
    k = replace(EFFICIENCY, links=1.0)
    one = Layout(devices=8, micro_batch_tokens=1)
    assert layer_exchanges_s(LLAMA, H100, one, 32768, k) == 0.0
    eight = replace(one, context=8)
    values = (32 + 8 + 8 + 32) * 128 * 32768 / 8 * 7 / 8  # queries, keys, values, outputs
    found = layer_exchanges_s(LLAMA, H100, eight, 32768, k)
    assert found == pytest.approx(32 * 2 * values / 450e9)
    sixteen = replace(one, devices=16, context=16)  # crosses nodes; heads of keys are repeated
    assert layer_exchanges_s(LLAMA, H100, sixteen, 32768, k) > 4 * found
    assert update_s(LLAMA, H100, eight, tokens=65536, length=32768) > update_s(
        LLAMA, replace(H100, link_bandwidth=1e15), eight, tokens=65536, length=32768
    )


def test_small_products_of_experts_take_longer():
    layout = Layout(devices=1, micro_batch_tokens=16384)

    def seconds(k=EFFICIENCY, tokens: float = 16384) -> float:
        return forward_s(QWEN, H100, replace(layout, micro_batch_tokens=tokens), tokens=16384,
                         length=1000, k=k)  # fmt: skip

    assert seconds(replace(EFFICIENCY, expert_products=0.1)) > 1.5 * seconds()
    assert seconds(tokens=1024) > 1.3 * seconds()  # all experts' weights are read 16 times


def test_pushes():
    assert push_s(75e9, "gathered", k=replace(EFFICIENCY, gathered=75e9, push_s=1.0)) == 2.0
    assert push_s(7e9, "shared_memory") == pytest.approx(1 + 7 / 2.5 + 7 / 3.5)
    assert push_s(7e9, "gloo") > push_s(7e9, "shared_memory")
    with pytest.raises(UserError, match="no rate is known of the transport 'pigeons'"):
        push_s(7e9, "pigeons")


def test_only_the_longer_side_of_an_overlapped_step_counts():
    parts = {"generation_s": 100.0, "scoring_s": 20.0, "training_s": 70.0, "push_s": 5.0}
    assert StepTime(**parts).total_s == 195 and StepTime(**parts).hidden_s == 0
    ahead = StepTime(**parts, overlaps=True)
    assert ahead.total_s == 105 and ahead.hidden_s == 90


def test_devices_are_found_by_the_drivers_name():
    for name, device in (
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GB200", "gb200"),
        ("AMD Instinct MI300X", "mi300x"),
    ):
        assert device_named(name).name == device
    assert device_named("NVIDIA GeForce GT 710") is None
    assert all(each.matmul_flops <= each.peak_flops for each in BY_NAME.values())
