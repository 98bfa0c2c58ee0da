"""A single wrong bit is seen, and it is told whose it is."""

import pytest
import torch

from rlpost.weights import kernel_digest
from rlpost.weights.kernel_digest import KernelDigest, agreed, differing, tensor_words


def digest(*contents: str, layout: str = "qwen on cpu") -> KernelDigest:
    return KernelDigest(layouts=(layout,) * len(contents), contents=contents)


def test_words_are_those_of_the_definition():
    words = torch.tensor([7, -3, 2**31 - 1], dtype=torch.int32)
    assert tensor_words(words).tolist() == [7 - 3 + 2**31 - 1, 7 - 6 + 3 * (2**31 - 1)]
    five_bytes = torch.tensor([1, 0, 0, 0, 9], dtype=torch.uint8)
    assert tensor_words(five_bytes).tolist() == [10, 1 + 2 * 9]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_every_single_bit_counts_and_every_place(dtype, monkeypatch):
    monkeypatch.setattr(kernel_digest, "_PIECE", 16)
    tensor = torch.randn(7, 11).to(dtype)
    seen = {tuple(tensor_words(tensor).tolist())}
    raw = tensor.view(torch.uint8).view(-1)
    for at in range(raw.numel()):
        raw[at] ^= 1
        seen.add(tuple(tensor_words(tensor).tolist()))
        raw[at] ^= 1
    assert len(seen) == 1 + raw.numel()
    rows = torch.arange(6, dtype=torch.float32).view(3, 2)
    assert tensor_words(rows)[0] == tensor_words(rows.flip(0))[0]
    assert tensor_words(rows)[1] != tensor_words(rows.flip(0))[1]


def test_pieces_add_up(monkeypatch):
    tensor = torch.randn(1000)
    whole = tensor_words(tensor)
    monkeypatch.setattr(kernel_digest, "_PIECE", 7)
    assert torch.equal(tensor_words(tensor), whole)


def test_the_majority_is_right():
    digests = {"a": digest("x", "y"), "b": digest("x", "z"), "c": digest("x", "y")}
    assert differing(digests, right={}) == {"b": "differ from those of the others in worker [1]"}
    assert differing({"a": digest("x"), "c": digest("x")}, right={}) == {}


def test_without_a_majority_everybody_is_in_doubt_until_one_was_agreed_on():
    digests = {"a": digest("x"), "b": digest("y")}
    assert list(differing(digests, right={})) == ["a", "b"]
    assert "no majority" in differing(digests, right={})["a"]
    assert list(differing(digests, right=agreed({"c": digest("x")}))) == ["b"]


def test_engines_of_another_layout_are_not_compared():
    digests = {"a": digest("x"), "b": digest("y", layout="qwen on another device")}
    assert differing(digests, right={}) == {}
