"""A checksum that a GPU computes over its own memory, so that a bucket need not leave it.

Owns the sums. They run on a CPU alike, which is how they are tested. Invariant: any byte that
changes changes the first sum, and any two that change places change the second.
"""

import torch

_PIECE_BYTES = 32 << 20  # of which int64 copies exist at a time


def sums(payload: torch.Tensor) -> tuple[int, int]:
    """Return the sum of contiguous uint8, and the sum weighted by position, both modulo 2^64.

    Words of four bytes are summed, the last of them filled up with zeros.
    """
    plain = torch.zeros((), dtype=torch.int64, device=payload.device)
    weighted = torch.zeros_like(plain)
    at = 0
    for piece in payload.split(_PIECE_BYTES):
        words = _words(piece)
        positions = torch.arange(at + 1, at + 1 + words.numel(), device=payload.device)
        plain += words.sum()
        weighted += (words * (2 * positions + 1)).sum()
        at += words.numel()
    first, second = torch.stack([plain, weighted]).tolist()
    return first, second


def _words(piece: torch.Tensor) -> torch.Tensor:
    """Return int64 of the four-byte words of a piece, of any address."""
    padded = torch.nn.functional.pad(piece, (0, -piece.numel() % 4))
    fours = padded.view(-1, 4).to(torch.int64)
    scale = torch.tensor([1, 1 << 8, 1 << 16, 1 << 24], device=piece.device)
    return (fours * scale).sum(1)
