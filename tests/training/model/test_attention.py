"""Packed attention equals separate sequences, and leaks nothing."""

import pytest
import torch

from rlpost.errors import UserError
from rlpost.training.model import attention, attention_segment
from rlpost.training.model.attention import PackedLayout, packed_attention
from rlpost.training.model.attention_segment import Masks
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


def reference(query, key, value, scaling: float, *, window=None, softcap=None) -> torch.Tensor:
    """Each sequence by softmax(QK)V written out; the prompt's rows come from its own pass."""
    result = torch.zeros(1, TOKENS, HEADS, WIDTH)
    for block in BLOCKS:
        for response in ((block.prompt[1],) * 2, *block.responses):
            index = torch.cat([torch.arange(*block.prompt), torch.arange(*response)])
            q, k, v = (x[0, :, index] for x in (query, key, value))
            k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=0) for x in (k, v))
            scores = q @ k.transpose(1, 2) * scaling
            if softcap is not None:
                scores = softcap * (scores / softcap).tanh()
            hidden = torch.ones(len(index), len(index), dtype=torch.bool).triu(1)
            if window is not None:
                hidden |= torch.ones_like(hidden).tril(-window)
            out = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
            result[0, index] = out.transpose(0, 1)
    return result


def attend(query, key, value, layout, **kwargs):
    module = torch.nn.Module()
    return packed_attention(
        module, query, key, value, None, scaling=0.3, packed_layout=layout, **kwargs
    )[0]


def compare(ours, expected, qkv) -> None:
    """Outputs, and the gradients of a weighted sum of them."""
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), qkv),
        torch.autograd.grad((expected * weights).sum(), qkv),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)


SCORING = ({}, {"window": 3}, {"window": 8}, {"softcap": 0.5}, {"window": 3, "softcap": 0.5})


@pytest.mark.parametrize("scoring", SCORING, ids=str)
@pytest.mark.parametrize("tile", [1, 2, 256])
def test_output_and_gradient_equal_separate_sequences(monkeypatch, scoring, tile):
    """However few queries attend in a call; a window of 3 ends within a shared prompt."""
    monkeypatch.setattr(attention_segment, "SHORTEST_TILE", tile)
    if tile == 1:
        monkeypatch.setattr(attention_segment, "TILE_SCORES", 2 * HEADS * TOKENS)
    qkv, asked = tensors(), dict(scoring)
    if "window" in asked:
        asked["sliding_window"] = asked.pop("window")
    ours = attend(*qkv, PackedLayout.of(BLOCKS, device=CPU), **asked)
    compare(ours, reference(*qkv, 0.3, **scoring), qkv)


@pytest.mark.parametrize("scoring", [{"sliding_window": 8}, {"softcap": 0.5}], ids=str)
def test_windows_and_caps_make_a_difference(scoring):
    """Negative control: the comparison above would see one that is ignored."""
    query, key, value = tensors()
    ours = attend(query, key, value, PackedLayout.of(BLOCKS, device=CPU), **scoring)
    assert (ours - reference(query, key, value, 0.3)).abs().max() > 1e-3


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
    only_prompts = PackedLayout.of((Block(prompt=(0, TOKENS), responses=()),), device=CPU)
    attend(*tensors(), only_prompts)
    assert not only_prompts.masks.made
    attend(*tensors(), layout)
    assert set(layout.masks.made) == {
        (s.num_queries, s.span, None) for s in layout.segments[1:4]
    } | {(3, 4, None)}


def test_masks_are_causal_and_end_at_the_window():
    masks = Masks(device=CPU)
    assert masks.of(2, 3) is masks.of(2, 3)
    assert masks.of(2, 3).tolist() == [[True, True, False], [True, True, True]]
    assert masks.of(2, 3, 2).tolist() == [[True, True, False], [False, True, True]]


def test_a_windowed_layer_makes_masks_of_its_tiles_alone(monkeypatch):
    """A whole mask of a long sequence would be as large as its scores."""
    monkeypatch.setattr(attention_segment, "SHORTEST_TILE", 1)
    layout = PackedLayout.of((Block(prompt=(0, TOKENS), responses=()),), device=CPU)
    attend(*tensors(), layout, sliding_window=4)
    assert set(layout.masks.made) == {(4, 4, 4), (4, 7, 4), (3, 6, 4)}


def test_blocks_that_do_not_tile_the_tokens_are_refused():
    with pytest.raises(AssertionError, match="tile"):
        PackedLayout.of((Block(prompt=(1, 3), responses=((3, 4),)),), device=CPU)


def test_without_a_layout_it_refuses_to_run():
    with pytest.raises(AssertionError, match="leak"):
        attend(*tensors(), layout=None)


def test_attention_sinks_are_refused():
    with pytest.raises(UserError, match="sinks"):
        attend(*tensors(), PackedLayout.of(BLOCKS, device=CPU), s_aux=torch.ones(4))


def test_short_sequences_in_bfloat16_are_computed_in_float32(monkeypatch):
    layout = PackedLayout.of(BLOCKS, device=CPU)
    halves = [x.detach().bfloat16() for x in tensors()]
    exact = attend(*(x.float() for x in halves), layout).bfloat16()
    assert torch.equal(attend(*halves, layout), exact)
    monkeypatch.setattr(attention, "SHORT", 0)
    assert not torch.equal(attend(*halves, layout), exact)
