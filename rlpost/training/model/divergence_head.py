"""The head that compares a student with a teacher beside it.

Owns the two forward passes and the tokens that both models know. Refuses to own the divergence
(algorithms/distill/), the student's layout on disk (heads.py) and how the teacher is loaded
(loading.py). Invariants: what a teacher says never leaves the process; of both models the logits of
one chunk alone exist at a time; the gradient reaches the student alone.

The split is by tokens, not by vocabulary: both heads are called as modules, so that ZeRO-3's hooks
gather the student's weight around the call, and such a call gives all its logits.

Legend: T packed tokens, R compared tokens, C a chunk of them, E width, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlpost.algorithms.distill import DivergenceConfig, compare
from rlpost.models.directory.config_file import ModelKind
from rlpost.training.model.heads import LogprobHead, Shell
from rlpost.training.model.logprobs import in_chunks
from rlpost.training.model.packed_model import ModelInputs, PackedModel, packed_hidden


@dataclass(frozen=True, kw_only=True)
class DivergenceHead:
    """Log-probs of a causal language model, and how far it is from the frozen one beside it.

    ``vocabulary`` is how many tokens the tokenizer has. Models of one family pad the rows of their
    embeddings to different numbers: what is compared are the distributions over the tokens that
    exist, renormalised. Log-probs are over all rows, as in the generator.
    """

    kind: ClassVar[ModelKind] = LogprobHead.kind
    purpose: ClassVar[str] = LogprobHead.purpose
    compared: ClassVar[str] = LogprobHead.compared
    unit: ClassVar[str] = LogprobHead.unit
    bounds: ClassVar[tuple[float, float]] = LogprobHead.bounds

    own: LogprobHead
    divergence: DivergenceConfig
    vocabulary: int

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return all fields of ``Outputs``; the temperature is that of the log-probs."""
        (teacher,) = module.frozen
        student_head = module.model.get_output_embeddings()
        teacher_head = teacher.model.get_output_embeddings()
        student_RE = packed_hidden(module.model.get_decoder(), inputs)[inputs.read_R]
        with torch.no_grad():
            teacher_RE = packed_hidden(teacher.model.get_decoder(), inputs)[inputs.read_R]

        def score(student_CE: Tensor, teacher_CE: Tensor, target_C: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                teacher_CV = teacher_head(teacher_CE)
            found = compare(
                student_head(student_CE),
                teacher_CV,
                target_C,
                self.divergence,
                vocabulary=self.vocabulary,
                temperature=temperature,
            )
            return (
                found.logprob_C,
                found.entropy_C,
                found.is_top_C,
                found.divergence_C,
                found.agrees_C,
            )

        return in_chunks(score, student_RE, teacher_RE, inputs.target_R, chunk=self.own.chunk)

    def load(self, path: str, *, dtype: torch.dtype, field: str) -> PackedModel:
        return PackedModel(self.own.load(path, dtype=dtype, field=field).model, head=self)

    def packed(self, module: PackedModel, inputs: ModelInputs) -> Tensor:
        return self.own.packed(module, inputs)

    def plain(self, model: Any, prompt: list[int], response: list[int]) -> Tensor:
        return self.own.plain(model, prompt, response)

    def difference(self, packed: Tensor, plain: Tensor) -> Tensor:
        return self.own.difference(packed, plain)

    def shell(self, start: Path, *, dtype: torch.dtype) -> Shell:
        return self.own.shell(start, dtype=dtype)
