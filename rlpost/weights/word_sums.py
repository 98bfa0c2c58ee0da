"""Two sums over the bytes of a tensor, computed where the tensor lies.

Owns the arithmetic: what a GPU computes over its own memory need not leave it. Refuses to own what
is compared (kernel_digest.py, transports/). Invariants: a word that changes changes the first sum;
two different words that change places change the second.
"""

import torch

_PIECE = 1 << 22  # words at a time: their int64 copies and products take 96 MiB


def word_sums(tensor: torch.Tensor) -> torch.Tensor:
    """Return two int64 ``[2]``, on the device of the tensor, that depend on each of its bits.

    They are the sum of its 32-bit words, and their sum weighted by position, both modulo 2^64. The
    last word is filled up with zeros.
    """
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    data = torch.nn.functional.pad(data, (0, -data.numel() % 4)) if data.numel() % 4 else data
    words, at = data.view(torch.int32), 0
    sums = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    for piece in words.split(_PIECE):
        wide = piece.long()
        places = torch.arange(at + 1, at + 1 + len(wide), device=tensor.device)
        sums += torch.stack([wide.sum(), (wide * places).sum()])
        at += len(wide)
    return sums


def checksum(payload: torch.Tensor) -> tuple[int, int]:
    """Return both sums of contiguous uint8 as numbers, which waits for its device."""
    plain, weighted = word_sums(payload).tolist()
    return plain, weighted
