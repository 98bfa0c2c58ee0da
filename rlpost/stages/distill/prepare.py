"""Distillation on given responses: what it needs of files and models before it starts.

Owns the plan. Refuses to own the training (boot.py) and the checks of the teacher (teacher.py).
Invariant: everything that can be refused is refused here, before a file is written or a process
started.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rlpost.algorithms.distill import DistillObjective
from rlpost.cluster.session import Device
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.splits import Splits
from rlpost.models.footprint import Footprint
from rlpost.models.shape import model_shape
from rlpost.stages.distill.config import DistillConfig
from rlpost.stages.distill.heldout import measured_names
from rlpost.stages.distill.storing import StoredTeacher
from rlpost.stages.distill.teacher import STAGE, Teacher, taught
from rlpost.stages.learning.prepare import Foundation, shown_examples
from rlpost.stages.learning.step_size import step_of_rows
from rlpost.stages.roles import Role, Workload
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.suites import SuitesPlan
from rlpost.training.memory import frozen_footprint
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.step_size import StepSize
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """A run that passed every check; nothing was written or started yet."""

    cfg: DistillConfig  # with the number of steps
    device: Device
    model_path: str
    roles: list[Role]  # who exists
    teacher: Teacher | None  # beside the student; None: it is stored
    stored: StoredTeacher | None
    objective: DistillObjective
    splits: Splits
    suites: SuitesPlan | None  # that generators answer
    shown: Sequence[Mapping[str, Any]]  # some training examples, as ``write_examples`` takes them

    @property
    def step_size(self) -> StepSize:
        taught = 0 if self.stored is None else self.stored.identity.column_bytes
        return step_of_rows(self.cfg, self.splits, more_bytes=taught)


def prepare(
    cfg: DistillConfig, *, directory: RunDirectory, device: Device | None = None
) -> DistillPlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_distill``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    base = Foundation.of(cfg, device=device).with_suites(directory)
    student, teacher, stored = base.policy, None, None
    if cfg.teacher.store is not None:
        stored = StoredTeacher.of(cfg.teacher, cfg.distill, cfg.trainer, student=student)
        model = taught(student, cfg.trainer, cfg.distill, vocabulary=stored.vocabulary)
    else:
        teacher = Teacher.of(cfg.teacher, cfg.trainer, student=student)
        model = teacher.beside(student, cfg.trainer, cfg.distill)
    encoder = base.encoder(ConversationEncoder, train_on=cfg.data.train_on)
    cfg, splits = base.load(encoder, measured=measured_names)
    if stored is not None:
        stored.require_rows(splits)
    if teacher is not None:
        teacher.require_room(splits)
    return DistillPlan(
        cfg=cfg,
        device=base.device,
        model_path=base.policy.path,
        roles=[_counted(base.trained_role(cfg, model), stored, cfg.trainer), *base.suite_roles],
        teacher=teacher,
        stored=stored,
        objective=DistillObjective(metrics=STAGE),
        splits=splits,
        suites=base.suites,
        shown=shown_examples(splits.train, base.policy.tokenizer),
    )


def _counted(role: Role, stored: StoredTeacher | None, trainer: TrainerConfig) -> Role:
    """Return the student's role with the memory of a teacher that has its slots first."""
    if stored is None or stored.teacher is None:
        return role
    return replace(role, memory=partial(_before, role, stored.teacher.model, trainer))


def _before(
    role: Role, teacher: TrainedModel, trainer: TrainerConfig, work: Workload
) -> list[Footprint]:
    asked = [
        each
        for actor in role.actors
        for each in frozen_footprint(
            f"teacher of {actor.name}",
            model_shape(teacher.path),
            num_tokens=work.micro_batch_tokens,
            value_bytes=resolve_dtype(trainer.dtype).itemsize,
            logprob_chunk=trainer.logprob_chunk,
            on_gpu=work.on_gpu,
            sharing=len(role.actors) if teacher.is_divided else 1,
        )
    ]
    after = [each if each.turn else replace(each, turn="training") for each in role.memory(work)]
    return [*after, *(replace(each, turn="storing") for each in asked)]
