"""Distillation on given responses: what it needs of files and models before it starts.

Owns the plan. Refuses to own the training (boot.py) and the checks of the teacher (teacher.py).
Invariant: everything that can be refused is refused here, before a file is written or a process
started.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.algorithms.distill import DistillObjective
from rlpost.cluster.session import Device
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.splits import Splits
from rlpost.stages.distill.config import DistillConfig
from rlpost.stages.distill.heldout import measured_names
from rlpost.stages.distill.teacher import STAGE, Teacher
from rlpost.stages.learning.prepare import Foundation, shown_examples
from rlpost.stages.roles import Role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.suites import SuitesPlan


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """A run that passed every check; nothing was written or started yet."""

    cfg: DistillConfig  # with the number of steps
    device: Device
    model_path: str
    roles: list[Role]  # who exists
    teacher: Teacher
    objective: DistillObjective
    splits: Splits
    suites: SuitesPlan | None  # that generators answer
    shown: Sequence[Mapping[str, Any]]  # some training examples, as ``write_examples`` takes them


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
    assert cfg.teacher.path is not None, "check_distill was not called"
    teacher = Teacher.of(cfg.teacher.path, cfg.trainer, student=base.policy)
    encoder = base.encoder(ConversationEncoder, train_on=cfg.data.train_on)
    cfg, splits = base.load(encoder, measured=measured_names)
    teacher.require_room(splits)
    model = teacher.beside(base.policy, cfg.trainer, cfg.distill)
    return DistillPlan(
        cfg=cfg,
        device=base.device,
        model_path=base.policy.path,
        roles=[base.trained_role(cfg, model), *base.suite_roles],
        teacher=teacher,
        objective=DistillObjective(metrics=STAGE),
        splits=splits,
        suites=base.suites,
        shown=shown_examples(splits.train, base.policy.tokenizer),
    )
