"""Packed attention equals separate sequences, and leaks nothing."""

import pytest
import torch

from rlpost.errors import UserError
from rlpost.training.model import attention
from rlpost.training.model.attention import PackedLayout, packed_attention
from rlpost.training.packing.batch import Block

CPU = torch.device("cpu")
BLOCKS = (
    Block(prompt=(0, 4), responses=((4, 7), (7, 8), (8, 13))),
    Block(prompt=(13, 15), responses=((15, 20),)),
    Block(prompt=(20, 21), responses=((21, 24), (24, 27))),
)
HEADS, KV_HEADS, WIDTH, TOKENS = 4, 2, 8, 27


def tensors() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, TOKENS, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return tuple(torch.randn(s, generator=generator, requires_grad=True) for s in shapes)


def reference(query, key, value, scaling: float) -> torch.Tensor:
    """Each sequence by softmax(QK)V written out; the prompt's rows come from its own pass."""
    result = torch.zeros(1, TOKENS, HEADS, WIDTH)
    for block in BLOCKS:
        for response in ((block.prompt[1],) * 2, *block.responses):
            index = torch.cat([torch.arange(*block.prompt), torch.arange(*response)])
            q, k, v = (x[0, :, index] for x in (query, key, value))
            k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=0) for x in (k, v))
            scores = q @ k.transpose(1, 2) * scaling
            future = torch.ones(len(index), len(index), dtype=torch.bool).triu(1)
            out = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
            result[0, index] = out.transpose(0, 1)
    return result


def attend(query, key, value, layout, **kwargs):
    module = torch.nn.Module()
    return packed_attention(
        module, query, key, value, None, scaling=0.3, packed_layout=layout, **kwargs
    )[0]


def test_output_and_gradient_equal_separate_sequences():
    query, key, value = tensors()
    ours = attend(query, key, value, PackedLayout.of(BLOCKS, device=CPU))
    expected = reference(query, key, value, 0.3)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)


def test_one_causal_pass_over_everything_would_be_seen():
    """Negative control: the same comparison catches a leak between sequences."""
    query, key, value = tensors()
    leaking = PackedLayout.of((Block(prompt=(0, TOKENS), responses=()),), device=CPU)
    difference = attend(query, key, value, leaking) - reference(query, key, value, 0.3)
    assert difference.abs().max() > 0.1


def test_an_unshared_sequence_is_one_call_without_a_mask():
    layout = PackedLayout.of(BLOCKS, device=CPU)
    spans = [(s.queries, s.prefix) for s in layout.segments]
    assert ((13, 20), None) in spans
    assert all((s.mask_QK is None) == (s.prefix is None) for s in layout.segments)


def test_masks_of_equal_shape_are_shared_and_causal():
    block = Block(prompt=(0, 1), responses=((1, 3), (3, 5)))
    layout = PackedLayout.of((block,), device=CPU)
    first, second = layout.segments[1:]
    assert first.mask_QK is second.mask_QK
    assert first.mask_QK.tolist() == [[True, True, False], [True, True, True]]


def test_blocks_that_do_not_tile_the_tokens_are_refused():
    with pytest.raises(AssertionError, match="tile"):
        PackedLayout.of((Block(prompt=(1, 3), responses=((3, 4),)),), device=CPU)


def test_without_a_layout_it_refuses_to_run():
    with pytest.raises(AssertionError, match="leak"):
        attend(*tensors(), layout=None)


@pytest.mark.parametrize(
    ("variant", "message"),
    [({"softcap": 30.0}, "softcap"), ({"s_aux": torch.ones(4)}, "sinks")],
)
def test_score_variants_are_refused(variant, message):
    with pytest.raises(UserError, match=message):
        attend(*tensors(), PackedLayout.of(BLOCKS, device=CPU), **variant)


def test_a_window_matters_only_when_a_sequence_is_longer():
    layout = PackedLayout.of(BLOCKS, device=CPU)
    attend(*tensors(), layout, sliding_window=9)  # the longest sequence: 4 + 5
    with pytest.raises(UserError, match="window of 8 tokens"):
        attend(*tensors(), layout, sliding_window=8)


def test_short_sequences_in_bfloat16_are_computed_in_float32(monkeypatch):
    layout = PackedLayout.of(BLOCKS, device=CPU)
    halves = [x.detach().bfloat16() for x in tensors()]
    exact = attend(*(x.float() for x in halves), layout).bfloat16()
    assert torch.equal(attend(*halves, layout), exact)
    monkeypatch.setattr(attention, "SHORT", 0)
    assert not torch.equal(attend(*halves, layout), exact)
