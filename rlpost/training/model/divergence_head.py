"""The head that compares a student with a teacher, beside it or stored.

Owns the forward passes and the tokens that both models know. Refuses to own the divergence
(algorithms/distill/), the student's layout on disk (heads.py), how the teacher is loaded
(loading.py) and where its stored words come from (stages/distill/). Invariants: what a teacher
beside it says never leaves the process; of both models the logits of one chunk alone exist at a
time; the gradient reaches the student alone.

The split is by tokens, not by vocabulary: the student's head is called as a module, so that
ZeRO-3's hooks gather its weight around the call, and within such a call all of it is there.

Legend: T packed tokens, R compared tokens, C a chunk of them, E width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlpost.algorithms.distill import ComparedTokens, DivergenceConfig, compare
from rlpost.algorithms.distill.divergence import StudentLogits
from rlpost.algorithms.distill.top_tokens import TopTokens, compare_top
from rlpost.models.directory.config_file import ModelKind
from rlpost.training.model.frozen_heads import HiddenHead
from rlpost.training.model.heads import LogprobHead, Shell
from rlpost.training.model.logprobs import Logits, in_chunks, logits_of, through_head
from rlpost.training.model.packed_model import ModelInputs, PackedModel, packed_hidden


@dataclass(frozen=True, kw_only=True)
class DivergenceHead:
    """Log-probs of a causal language model, and how far it is from its teacher.

    The teacher is what the batch brings of one, else the frozen model beside the student. Without
    both there are log-probs alone.

    ``vocabulary`` is how many tokens the tokenizer has. Models of one family pad the rows of their
    embeddings to different numbers: what is compared are the distributions over the tokens that
    exist, renormalised. Log-probs are over all rows, as in the generator.
    """

    kind: ClassVar[ModelKind] = LogprobHead.kind
    purpose: ClassVar[str] = LogprobHead.purpose
    compared: ClassVar[str] = LogprobHead.compared
    unit: ClassVar[str] = LogprobHead.unit
    bounds: ClassVar[tuple[float, float]] = LogprobHead.bounds
    reads_before: ClassVar[bool] = LogprobHead.reads_before

    own: LogprobHead
    divergence: DivergenceConfig
    vocabulary: int

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return all fields of ``Outputs``; the temperature is that of the log-probs."""
        if not module.frozen and inputs.teacher is None:
            return self.own(module, inputs, temperature=temperature)
        student_RE = packed_hidden(module.model.get_decoder(), inputs)[inputs.read_R]
        logits = StudentLogits(
            config=self.divergence, vocabulary=self.vocabulary, temperature=temperature
        )
        compared, known = self._teacher(module, inputs, logits)

        def score(
            head: Logits, student_CE: Tensor, target_C: Tensor, *known: Tensor
        ) -> tuple[Tensor, ...]:
            found = compared(head(student_CE), target_C, *known)
            return (
                found.logprob_C,
                found.entropy_C,
                found.is_top_C,
                found.divergence_C,
                found.agrees_C,
            )

        def all_chunks(head: Logits, student_RE: Tensor) -> tuple[Tensor, ...]:
            columns = (student_RE, inputs.target_R, *known)
            return in_chunks(partial(score, head), *columns, chunk=self.own.chunk)

        return through_head(module.model, all_chunks, student_RE)

    def _teacher(
        self, module: PackedModel, inputs: ModelInputs, logits: StudentLogits
    ) -> tuple[Callable[..., ComparedTokens], tuple[Tensor, ...]]:
        """Return what compares a chunk of the student's logits, and what it needs of each row."""
        if inputs.teacher is not None:

            def with_stored(student_CV: Tensor, target_C: Tensor, *kept: Tensor) -> ComparedTokens:
                return compare_top(student_CV, TopTokens(*kept), target_C, logits)

            return with_stored, inputs.teacher
        (teacher,) = module.frozen
        with torch.no_grad():
            (teacher_RE,) = teacher(inputs, head=HiddenHead())
        # Its weights are whole until the next pass, and no hooks may run: they would gather anew,
        # once for each chunk of this rank.
        teacher_head = logits_of(teacher.model, inside=True)

        def with_live(student_CV: Tensor, target_C: Tensor, teacher_CE: Tensor) -> ComparedTokens:
            with torch.no_grad():
                teacher_CV = teacher_head(teacher_CE)
            return compare(student_CV, teacher_CV, target_C, logits)

        return with_live, (teacher_RE,)

    def load(
        self, path: str, *, dtype: torch.dtype, field: str, hollow: bool = False
    ) -> PackedModel:
        own = self.own.load(path, dtype=dtype, field=field, hollow=hollow)
        return PackedModel(own.model, head=self)

    def packed(self, module: PackedModel, inputs: ModelInputs) -> Tensor:
        return self.own.packed(module, inputs)

    def plain(self, model: Any, prompt: list[int], response: list[int]) -> Tensor:
        return self.own.plain(model, prompt, response)

    def difference(self, packed: Tensor, plain: Tensor) -> Tensor:
        return self.own.difference(packed, plain)

    def shell(self, start: Path, *, dtype: torch.dtype) -> Shell:
        return self.own.shell(start, dtype=dtype)
