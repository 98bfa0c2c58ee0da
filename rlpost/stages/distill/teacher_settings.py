"""The options of the teacher: a model beside the student, or what was stored of one.

Owns their declaration and the rules between them. Imports nothing that starts a process.
"""

from dataclasses import dataclass

from rlpost.bounds import number, option
from rlpost.errors import UserError
from rlpost.training.settings import check_frozen_stage


@dataclass(kw_only=True)
class TeacherConfig:
    """The model that is learned from: frozen in the student's ranks, or stored."""

    path: str | None = option(
        None, help="embedded model, local directory or hub id; must have the student's tokenizer"
    )
    store: str | None = option(
        None,
        help="directory of what a teacher says of the rows; then no teacher is in memory; null: "
        "none",
    )
    top_k: int | None = number(
        None,
        at_least=1,
        at_most=10**6,
        hint="64 is usual",
        help="tokens of each distribution that teacher.path stores in teacher.store before the "
        "student is loaded, if it is not there; null: nothing is stored",
    )
    zero_stage: int = number(
        0,
        at_least=0,
        at_most=3,
        hint="3 divides the weights",
        help="0: each of trainer.num_ranks has all weights; 3: a part",
    )

    def check(self, path: str) -> None:
        """Raises UserError: the stage divides what a frozen model does not have."""
        check_frozen_stage(self.zero_stage, field=f"{path}.zero_stage")


def check_teacher(cfg: TeacherConfig, *, online: bool) -> None:
    """Refuse settings of the teacher that contradict each other.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    if not cfg.path and not cfg.store:
        raise UserError(
            "teacher.path must name the model to learn from, which has the student's tokenizer, "
            "such as the export of another run: teacher.path=runs/NAME/export"
        )
    if online and (cfg.store or cfg.top_k):
        raise UserError(
            "teacher.store and teacher.top_k have no effect with data.online=true, because nobody "
            "knows beforehand what the student samples; leave them out and set teacher.path, or "
            "learn given responses"
        )
    if cfg.zero_stage and not cfg.path:
        raise UserError(
            f"teacher.zero_stage={cfg.zero_stage} has no effect: what teacher.store={cfg.store} "
            "holds was said before, and no teacher is in memory; leave it out, or set teacher.path"
        )
    if cfg.top_k is not None and not (cfg.path and cfg.store):
        raise UserError(
            f"teacher.top_k={cfg.top_k} says how much teacher.path stores in teacher.store, so it "
            "needs both; set them, or leave it out: a store that is there has its own"
        )
    if cfg.path and cfg.store and cfg.top_k is None:
        raise UserError(
            f"teacher.path={cfg.path} is a teacher in memory and teacher.store={cfg.store} one on "
            "disk; leave one of them out, or set teacher.top_k=64 to store the one in the other "
            "first"
        )
