"""The one-call form of a layout, computed by a kernel written out in plain torch."""

import torch

from rlpost.training.model import attention_varlen
from rlpost.training.model.attention import PackedLayout, packed_attention
from rlpost.training.model.attention_segment import Scoring
from rlpost.training.packing.batch import Block

CPU = torch.device("cpu")
SHARED = (
    Block(prompt=(0, 4), responses=((4, 7), (7, 9))),
    Block(prompt=(9, 11), responses=((11, 14),)),
)
UNSHARED = (
    Block(prompt=(0, 4), responses=((4, 9),)),
    Block(prompt=(9, 11), responses=((11, 14),)),
)
HEADS, KV_HEADS, WIDTH, TOKENS = 4, 2, 8, 14


def plain_kernel(query, key, value, sequences, scoring):
    """What flash kernels promise: per sequence, causal, aligned at the last query and key."""
    outputs = []
    for s in range(len(sequences.query_ends_S) - 1):
        q = query[sequences.query_ends_S[s] : sequences.query_ends_S[s + 1]]
        rows = slice(sequences.key_ends_S[s], sequences.key_ends_S[s + 1])
        k, v = (x[rows].repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scoring.scaling
        visible = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(outputs)


def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, TOKENS, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return tuple(torch.randn(s, generator=generator, requires_grad=True) for s in shapes)


def one_call(qkv, layout):
    return attention_varlen.attend(
        plain_kernel, *qkv, sequences=layout.sequences, scoring=Scoring(scaling=0.3)
    )


def per_sequence(qkv, layout):
    module = torch.nn.Module()
    return packed_attention(module, *qkv, None, scaling=0.3, packed_layout=layout)[0]


def test_a_layout_becomes_sequences_that_repeat_the_prompt():
    sequences = PackedLayout.of(SHARED, device=CPU).sequences
    assert sequences.query_ends_S.tolist() == [0, 4, 7, 9, 14]
    assert sequences.key_ends_S.tolist() == [0, 4, 11, 17, 22]
    assert (sequences.longest_query, sequences.longest_key) == (5, 7)
    prompt = [0, 1, 2, 3]
    expected = [*prompt, *prompt, 4, 5, 6, *prompt, 7, 8, *range(9, 14)]
    assert sequences.token_L.tolist() == expected


def test_without_sharing_nothing_is_copied():
    sequences = PackedLayout.of(UNSHARED, device=CPU).sequences
    assert sequences.token_L is None
    assert sequences.key_ends_S.tolist() == sequences.query_ends_S.tolist() == [0, 9, 14]


def test_one_call_equals_one_call_per_sequence_forwards_and_backwards():
    for blocks in (SHARED, UNSHARED):
        qkv, layout = tensors(), PackedLayout.of(blocks, device=CPU)
        ours, expected = one_call(qkv, layout), per_sequence(qkv, layout)
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
        weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
        for mine, theirs in zip(
            torch.autograd.grad((ours * weights).sum(), qkv),
            torch.autograd.grad((expected * weights).sum(), qkv),
            strict=True,
        ):
            torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)


def test_copies_of_a_row_sum_their_gradients_in_float32():
    """In bfloat16, 256 + 1 is 256: a sum in the rows' own dtype would lose every 1."""
    rows = torch.ones(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    copies = attention_varlen._Repeated.apply(rows, torch.zeros(9, dtype=torch.int64))
    upstream = torch.tensor([256.0] + [1.0] * 8, dtype=torch.bfloat16)[:, None, None]
    copies.backward(upstream)
    assert rows.grad.item() == 264.0


def test_a_cpu_has_no_such_kernel():
    assert attention_varlen.kernel_for(tensors()[0].bfloat16(), Scoring()) is None


def test_kernels_are_told_the_window_where_it_limits(monkeypatch):
    """Torch counts the keys before a query's own; -1 is all of them."""
    told = []

    def varlen_attn(query, key, value, *lengths, scale, window_size, enable_gqa):
        told.append((scale, window_size))
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    kernel, sequences = (
        attention_varlen._torch_kernel(),
        PackedLayout.of(SHARED, device=CPU).sequences,
    )
    qkv = [x[0].transpose(0, 1) for x in tensors()]
    for window in (None, 7, 6):  # the longest keys: a prompt of 4 and a response of 3
        kernel(*qkv, sequences, Scoring(scaling=0.3, window=window))
    assert told == [(0.3, (-1, 0)), (0.3, (-1, 0)), (0.3, (5, 0))]


def test_only_flash_attn_caps_scores(monkeypatch):
    monkeypatch.setattr(attention_varlen, "_torch_kernel", lambda: "torch")
    monkeypatch.setattr(attention_varlen, "_flash_attn_kernel", lambda: None)
    choose = attention_varlen._installed_kernel.__wrapped__
    assert (choose(capped=False), choose(capped=True)) == ("torch", None)
