"""The teacher of a student, looked at before anything starts, and what both are as one model.

Owns the checks and the assembly. Refuses to own the comparison (algorithms/distill/) and loading
(training/model/). Invariant: a teacher that passes reads the student's token ids as the student
does.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np

from rlpost.algorithms.distill import DivergenceConfig
from rlpost.data.splits import Splits
from rlpost.errors import UserError
from rlpost.models.locate import context_length
from rlpost.models.shape import model_shape
from rlpost.stages.distill.teacher_settings import TeacherConfig
from rlpost.stages.policy import CheckedPolicy, check_frozen
from rlpost.training.model.divergence_head import DivergenceHead
from rlpost.training.model.heads import LogprobHead
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import TrainerConfig

log = logging.getLogger(__name__)

STAGE = "distill"
FIELD = "teacher.path"


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A teacher that passed."""

    model: TrainedModel
    student_rows: int  # of the vocabulary
    rows: int
    vocabulary: int  # tokens that exist
    longest: int  # tokens that it reads

    @classmethod
    def of(cls, cfg: TeacherConfig, trainer: TrainerConfig, *, student: CheckedPolicy) -> "Teacher":
        """Look at the teacher at ``cfg.path``.

        Raises:
            UserError: there is no causal language model there, it has another tokenizer, or it is
                the student.
        """
        path = cfg.path
        assert path is not None, "check_teacher was not called"
        policy = TrainedModel.policy(student.path, trainer, metrics=STAGE)
        model, rehearsal = check_frozen(path, field=FIELD, beside=policy)
        starts_as_base = student.adapter is None or student.adapter.frozen() is None
        if model.path == student.path and starts_as_base:
            raise UserError(
                f"{FIELD}: {path} is the student itself, of which it has nothing to learn; name "
                "another model, or another model.path"
            )
        context = context_length(model.path)
        return cls(
            model=replace(model, is_divided=cfg.zero_stage == 3),
            student_rows=model_shape(student.path).vocabulary,
            rows=model_shape(model.path).vocabulary,
            vocabulary=num_tokens(student),
            longest=context if rehearsal.reach is None else min(context, rehearsal.reach),
        )

    def beside(
        self, student: CheckedPolicy, trainer: TrainerConfig, cfg: DivergenceConfig
    ) -> TrainedModel:
        """Return the student, trained with this teacher in its rank."""
        frozen = (self.model,)
        return taught(student, trainer, cfg, vocabulary=self.vocabulary, frozen=frozen)

    def require_room(self, splits: Splits) -> None:
        """Raises UserError: a row is longer than what the teacher reads."""
        corpora = (*splits.train.corpora.values(), *splits.heldout.values())
        self.require_length(int(max(np.max(each.lengths_N) for each in corpora)))

    def require_length(self, longest: int) -> None:
        """Raises UserError: ``longest`` tokens are more than what the teacher reads."""
        if longest > self.longest:
            raise UserError(
                f"{FIELD}: {self.model.path} reads at most {self.longest} tokens, and the longest "
                f"sequence has {longest}; use a teacher with a longer context, or lower "
                f"data.max_tokens to {self.longest} with data.on_long=skip"
            )

    def say_what_is_compared(self) -> None:
        """Write to the log over how many tokens the distributions are compared."""
        if self.vocabulary < max(self.rows, self.student_rows):
            log.info(
                "the student's vocabulary has %d rows and the teacher's %d; both distributions are "
                "renormalised over the %d tokens that exist",
                self.student_rows,
                self.rows,
                self.vocabulary,
            )


def num_tokens(student: CheckedPolicy) -> int:
    """Return how many tokens exist; rows of an embedding behind them are padding."""
    return max(student.tokenizer.get_vocab().values()) + 1


def taught(
    student: CheckedPolicy,
    trainer: TrainerConfig,
    cfg: DivergenceConfig,
    *,
    vocabulary: int,
    frozen: tuple[TrainedModel, ...] = (),
) -> TrainedModel:
    """Return the student with the head that compares it, and the teacher in its rank, if any."""
    policy = TrainedModel.policy(student.path, trainer, metrics=STAGE, adapter=student.adapter)
    head = DivergenceHead(
        own=LogprobHead(chunk=trainer.logprob_chunk), divergence=cfg, vocabulary=vocabulary
    )
    return replace(policy, head=head, frozen=frozen)
