"""Reward models: of whole responses from pairs, or of steps from judged solutions.

Owns what of ``rlpost reward`` needs files and models. Refuses to own the training (boot.py).
Invariant: everything that can be refused is refused here, before a file is written or a process
started.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlpost.algorithms.loss import Objective
from rlpost.algorithms.reward import RewardObjective, StepObjective
from rlpost.cluster.session import Device
from rlpost.data.conversation.preferences import PairEncoder, judgements_of_pair
from rlpost.data.conversation.step_ends import STEP_SEPARATOR
from rlpost.data.conversation.steps import StepwiseEncoder, judgements_of_steps
from rlpost.data.corpus.corpus import Corpus
from rlpost.data.example import ExampleEncoder
from rlpost.data.splits import Splits
from rlpost.errors import DataError
from rlpost.stages.learning.prepare import Foundation, shown_examples
from rlpost.stages.learning.step_size import step_of_rows
from rlpost.stages.reward.batch import pair_unit, pairs_of
from rlpost.stages.reward.config import RewardConfig
from rlpost.stages.reward.heldout import measured_names
from rlpost.stages.roles import Role
from rlpost.stages.run_directory import RunDirectory
from rlpost.training.model.classifier_heads import SCORE_HEAD, STEP_HEAD
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.step_size import StepSize
from rlpost.training.precision import resolve_dtype

STAGE = "reward"


@dataclass(frozen=True, kw_only=True)
class RewardPlan:
    """A run that passed every check; nothing was written or started yet."""

    cfg: RewardConfig  # with the number of steps
    device: Device
    model_path: str
    roles: list[Role]  # who exists
    objective: Objective
    splits: Splits
    shown: Sequence[Mapping[str, Any]]  # some training examples, as ``write_examples`` takes them

    @property
    def step_size(self) -> StepSize:
        return step_of_rows(self.cfg, self.splits)


def prepare(
    cfg: RewardConfig, *, directory: RunDirectory, device: Device | None = None
) -> RewardPlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_reward``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    head = STEP_HEAD if cfg.judges_steps else SCORE_HEAD
    base = Foundation.of(cfg, device=device, kind=head.kind)
    head.shell(Path(base.policy.path), dtype=resolve_dtype(cfg.trainer.dtype))
    cfg, splits = base.load(
        _encoder(cfg, base), measured=partial(measured_names, of_steps=cfg.judges_steps)
    )
    if cfg.judges_steps:
        _require_different_labels(splits.train.corpora.values())
    else:
        for corpus in (*splits.train.corpora.values(), *splits.heldout.values()):
            _require_fitting_pairs(corpus, cfg.trainer.max_tokens_per_micro_batch)
    model = TrainedModel.reward(
        base.policy.path, head=head, metrics=STAGE, adapter=base.policy.adapter
    )
    objective = StepObjective if cfg.judges_steps else RewardObjective
    return RewardPlan(
        cfg=cfg,
        device=base.device,
        model_path=base.policy.path,
        roles=[base.trained_role(cfg, model)],
        objective=objective(loss=cfg.loss, metrics=STAGE),
        splits=splits,
        shown=shown_examples(
            splits.train,
            base.policy.tokenizer,
            judgements=judgements_of_steps if cfg.judges_steps else judgements_of_pair,
        ),
    )


def _encoder(cfg: RewardConfig, base: Foundation) -> ExampleEncoder:
    if cfg.judges_steps:
        separator = cfg.data.step_separator or STEP_SEPARATOR
        return base.encoder(StepwiseEncoder, separator=separator)
    return base.encoder(PairEncoder, margin_column=cfg.loss.margin_column)


def _require_different_labels(corpora: Iterable[Corpus]) -> None:
    found: set[float] = set()
    for corpus in corpora:
        found.update(np.unique(corpus.all_labels()).tolist())
    if len(found) < 2:
        raise DataError(
            f"data.train: every step has the label {found.pop():g}, so nothing tells right steps "
            "from wrong ones; use data that has both"
        )


def _require_fitting_pairs(corpus: Corpus, max_tokens: int) -> None:
    """Refuse a pair that no micro-batch can hold: its prompt and both its responses."""
    for row in np.flatnonzero(corpus.lengths_N > max_tokens).tolist():
        for pair in pairs_of(corpus.examples(row)):
            unit = pair_unit(pair, number=0)
            size = len(unit.prompt) + unit.item_tokens
            if size > max_tokens:
                raise DataError(
                    f"{pair[0].address}: a prompt and its two responses have {size} tokens, and a "
                    f"micro-batch holds trainer.max_tokens_per_micro_batch={max_tokens}; raise it "
                    f"to at least {size}, or lower data.max_tokens with data.on_long=skip"
                )
