"""Host memory that cannot be pinned is refused with what, how much and what to do."""

import pytest
import torch

from rlpost.errors import InfrastructureError
from rlpost.training.pinned_memory import PIECE_BYTES, NotPinned, pinned_pieces


class Host:
    """Gives so many pieces, then says what CUDA says."""

    def __init__(self, room: int) -> None:
        self.room, self.given = room, []

    def __call__(self) -> torch.Tensor:
        if len(self.given) == self.room:
            raise RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`\n")
        piece = torch.empty(1)
        self.given.append(piece)
        return piece


def pin(size_bytes: int, room: int) -> list[torch.Tensor]:
    return pinned_pieces(size_bytes, purpose="a copy", way_out="copy less", allocate=Host(room))


@pytest.mark.parametrize(("size", "pieces"), [(-1, 0), (0, 0), (1, 1), (PIECE_BYTES + 1, 2)])
def test_there_are_as_many_pieces_as_the_bytes_need(size, pieces):
    assert len(pin(size, room=2)) == pieces


def test_a_refusal_says_what_how_much_and_what_to_do():
    with pytest.raises(NotPinned) as caught:
        pin(32 * PIECE_BYTES, room=16)
    message = str(caught.value)
    assert message.startswith(
        "a copy needs 2.00 GiB of pinned host memory, and the system refused after 1.00 GiB "
        "(CUDA error: out of memory"
    )
    assert "`ulimit -l`" in message and message.endswith("give the host more memory, or copy less")
    assert isinstance(caught.value, InfrastructureError)
