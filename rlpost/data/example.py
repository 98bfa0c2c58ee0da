"""One encoded training sequence, and the protocol of what encodes a record.

Owns these two. Refuses to own templates and masks (an encoder's own files), storage (corpus.py)
and order (mixture.py). Invariant: every token of an example says whether it is trained.

T: tokens of one sequence; L: labels of it.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rlpost.data.records import Record
from rlpost.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """The tokens of one sequence and which of them are trained.

    ``trained[t]`` says whether the model learns to predict token ``t`` from those before it, or is
    judged at it; ``ids`` and ``trained`` have the shape (T,). The first token is predicted from
    nothing and therefore never trained. ``labels`` (L,) are what people or programs said of it:
    whether a completion is good, the margin of a pair, or how right each step is; most have none.

    Example: ``Example(ids=np.array([5, 9, 2], np.int32), trained=np.array([False, True, True]),
    address="train.jsonl:17")``
    """

    ids: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    address: str  # of the row, for errors and samples
    uid: str = ""  # "<source>:<epoch>:<row>" once a mixture drew it; unique within a run
    labels: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        assert self.ids.dtype == np.int32 and self.trained.dtype == np.bool_, self.address
        assert self.ids.shape == self.trained.shape, self.address
        assert self.ids.ndim == 1 and len(self) > 0, self.address
        assert not self.trained[0], self.address
        assert self.labels.dtype == np.float32 and self.labels.ndim == 1, self.address

    def __len__(self) -> int:
        """Tokens of the sequence."""
        return len(self.ids)


class RowTooLong(DataError):
    """A row has more tokens than may be used; found before it was tokenized."""


class ExampleEncoder(Protocol):
    """Turns records into examples; picklable, because worker processes run it.

    Attributes:
        fingerprint: identity of everything that decides the tokens and the mask: tokenizer,
            template, options, and a version that changes with the encoder's code.
        accepts: the kinds of records that ``encode`` takes.
    """

    fingerprint: str
    accepts: tuple[type[Record], ...]

    def encode(self, record: Record) -> list[Example]:
        """Return the examples of one record, which are always drawn together.

        A pair has two, the chosen one first. Whether an example is too long is not decided here.

        Raises:
            DataError: the record cannot be encoded; the message begins with its address.
        """
        ...
