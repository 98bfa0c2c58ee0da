"""What a frozen model is asked in place of its own head's scores.

Owns these questions. Refuses to own the model (scorer.py) and what is made of the answers
(algorithms/distill/). Invariant: a question calls each module of the model once a pass, as its own
head does, so that ranks that divide its weights gather them equally often and in one order.

Legend: C rows of a chunk, R scored tokens, E width, V vocabulary, K and B see ``top_tokens``.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from rlpost.algorithms.distill.top_tokens import top_tokens
from rlpost.training.model.logprobs import Logits, in_chunks, through_head
from rlpost.training.model.packed_model import ModelInputs, PackedModel, packed_hidden


@dataclass(frozen=True, kw_only=True)
class TopTokensHead:
    """The most likely of the first ``vocabulary`` tokens; the logits of a ``chunk`` exist at once.

    The answer of a pass is (R, K) ids and (R, B) logarithms.
    """

    reads_before: ClassVar[bool] = True

    k: int
    vocabulary: int
    chunk: int

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return what ``top_tokens`` keeps."""
        asked = partial(top_tokens, k=self.k, vocabulary=self.vocabulary, temperature=temperature)

        def all_chunks(logits: Logits, hidden_RE: Tensor) -> tuple[Tensor, ...]:
            return in_chunks(lambda part_CE: asked(logits(part_CE)), hidden_RE, chunk=self.chunk)

        hidden_TE = packed_hidden(module.model.get_decoder(), inputs)
        return through_head(module.model, all_chunks, hidden_TE[inputs.read_R])


@dataclass(frozen=True, kw_only=True)
class HiddenHead:
    """The last hidden states where tokens are predicted, (R, E), for whoever makes the logits."""

    reads_before: ClassVar[bool] = True

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        return (packed_hidden(module.model.get_decoder(), inputs)[inputs.read_R],)
