"""Every bit counts, and every place."""

import pytest
import torch

from rlpost.weights import word_sums as module
from rlpost.weights.word_sums import checksum, word_sums


def test_sums_are_those_of_the_definition():
    words = torch.tensor([7, -3, 2**31 - 1], dtype=torch.int32)
    assert word_sums(words).tolist() == [7 - 3 + 2**31 - 1, 7 - 6 + 3 * (2**31 - 1)]
    five_bytes = torch.tensor([1, 0, 0, 0, 9], dtype=torch.uint8)
    assert checksum(five_bytes) == (10, 1 + 2 * 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_every_single_bit_counts_and_every_place(dtype, monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 16)
    tensor = torch.randn(7, 11).to(dtype)
    seen = {tuple(word_sums(tensor).tolist())}
    raw = tensor.view(torch.uint8).view(-1)
    for at in range(raw.numel()):
        raw[at] ^= 1
        seen.add(tuple(word_sums(tensor).tolist()))
        raw[at] ^= 1
    assert len(seen) == 1 + raw.numel()
    rows = torch.arange(6, dtype=torch.float32).view(3, 2)
    assert word_sums(rows)[0] == word_sums(rows.flip(0))[0]
    assert word_sums(rows)[1] != word_sums(rows.flip(0))[1]


def test_pieces_add_up(monkeypatch):
    tensor = torch.randn(1000)
    whole = word_sums(tensor)
    monkeypatch.setattr(module, "_PIECE", 7)
    assert torch.equal(word_sums(tensor), whole)
