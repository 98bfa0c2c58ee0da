"""Preference learning: what ``rlpost preference`` needs of files and models before it starts.

Owns the plan. Refuses to own the training (boot.py). Invariant: everything that can be refused is
refused here, before a file is written or a process started.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlpost.algorithms.preference import PreferenceObjective
from rlpost.cluster.session import Device
from rlpost.data.conversation.preferences import (
    JudgedEncoder,
    PairEncoder,
    judgements_of_judged,
    judgements_of_pair,
    shared_prompt,
)
from rlpost.data.corpus.corpus import Corpus
from rlpost.data.splits import Splits
from rlpost.errors import DataError
from rlpost.models.directory.weight_files import stored_tensors
from rlpost.models.fingerprint import fingerprint_of
from rlpost.models.locate import locate_model
from rlpost.stages.learning.prepare import Foundation, shown_examples
from rlpost.stages.learning.step_size import step_of_rows
from rlpost.stages.policy import check_frozen
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.config import PreferenceConfig
from rlpost.stages.preference.heldout import measured_names
from rlpost.stages.reference_role import reference_role
from rlpost.stages.roles import Role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.suites import SuitesPlan
from rlpost.training.adapters.directory import AdapterDirectory
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.step_size import StepSize
from rlpost.training.packing.work import ForwardWork

STAGE = "preference"


@dataclass(frozen=True, kw_only=True)
class PreferencePlan:
    """A run that passed every check; nothing was written or started yet."""

    cfg: PreferenceConfig  # with the number of steps
    device: Device
    model_path: str
    roles: list[Role]  # who exists: the policy, and a reference that runs beside it
    objective: PreferenceObjective
    packer: ResponsePacker
    splits: Splits
    suites: SuitesPlan | None  # that generators answer
    has_adapter: bool  # on the policy
    shown: Sequence[Mapping[str, Any]]  # some training examples, as ``write_examples`` takes them
    longest: int  # tokens of an example, at most
    compared_with: Mapping[str, str]  # what the reference is made of -> fingerprint; none: nothing

    @property
    def step_size(self) -> StepSize:
        return step_of_rows(self.cfg, self.splits)


def prepare(
    cfg: PreferenceConfig, *, directory: RunDirectory, device: Device | None = None
) -> PreferencePlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_preference``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    base = Foundation.of(cfg, device=device).with_suites(directory)
    encoder_of = JudgedEncoder if cfg.is_judged else PairEncoder
    names = partial(measured_names, judged=cfg.is_judged)
    cfg, splits = base.load(base.encoder(encoder_of), measured=names)
    packer = packer_of(cfg, model_path=base.policy.path)
    if cfg.is_judged:
        _require_both_labels(list(splits.train.corpora.values()))
        for corpus in (*splits.train.corpora.values(), *splits.heldout.values()):
            _require_two_prompts(corpus)
    else:
        for corpus in (*splits.train.corpora.values(), *splits.heldout.values()):
            _require_room(corpus, packer)
    return PreferencePlan(
        cfg=cfg,
        device=base.device,
        model_path=base.policy.path,
        roles=_roles(cfg, base),
        objective=PreferenceObjective(loss=cfg.loss, metrics=STAGE),
        packer=packer,
        splits=splits,
        suites=base.suites,
        has_adapter=base.policy.adapter is not None,
        shown=shown_examples(
            splits.train,
            base.policy.tokenizer,
            judgements=judgements_of_judged if cfg.is_judged else judgements_of_pair,
        ),
        longest=base.longest,
        compared_with=_reference_weights(cfg, base) if cfg.loss.needs_reference else {},
    )


def packer_of(cfg: PreferenceConfig, *, model_path: str) -> ResponsePacker:
    """Return what packs as the options say."""
    return ResponsePacker(
        num_ranks=cfg.trainer.data_ranks,
        max_tokens=cfg.trainer.max_tokens_per_micro_batch,
        judged=cfg.is_judged,
        trains_chosen=cfg.loss.nll_weight > 0,
        fill=cfg.trainer.packing,
        share_prompts=cfg.trainer.share_prompts,
        work=ForwardWork.of_model(model_path),
    )


def _roles(cfg: PreferenceConfig, base: Foundation) -> list[Role]:
    model = TrainedModel.policy(
        base.policy.path, cfg.trainer, metrics=STAGE, adapter=base.policy.adapter
    )
    roles = [base.trained_role(cfg, model)]
    if cfg.has_second_model:
        frozen = frozen_reference(cfg, model)
        roles.append(
            reference_role(
                cfg.trainer,
                model=frozen,
                ranks=cfg.reference,
                cluster=cfg.cluster,
                device=base.device,
            )
        )
    return [*roles, *base.suite_roles]


def frozen_reference(cfg: PreferenceConfig, policy: TrainedModel) -> TrainedModel:
    """Return the model that the policy is compared with.

    Raises:
        UserError: ``reference.path`` is no model that can be.
    """
    if cfg.reference.path is None:
        return policy
    return check_frozen(cfg.reference.path, field="reference.path", beside=policy)[0]


def _reference_weights(cfg: PreferenceConfig, base: Foundation) -> dict[str, str]:
    """Return the fingerprints of the reference's weights and of the adapter that it starts with."""
    if cfg.reference.path is not None:
        path = Path(locate_model(cfg.reference.path, field="reference.path"))
        return {"model": fingerprint_of(stored_tensors(path, field="reference.path"))}
    found = {"model": fingerprint_of(base.policy.directory.tensors)}
    if cfg.model.adapter is not None:
        found["adapter"] = AdapterDirectory.read(cfg.model.adapter).fingerprint()
    return found


def _require_both_labels(corpora: Sequence[Corpus]) -> None:
    """Raises DataError: all rows are good, or all are bad."""
    labels = np.concatenate([corpus.all_labels() for corpus in corpora])
    if len(labels) and (labels == labels[0]).all():
        names = ", ".join(corpus.name for corpus in corpora)
        kind, other = ("good", "bad") if labels[0] else ("bad", "good")
        raise DataError(
            f"{names}: the label of all {len(labels)} completions is the same: each is {kind}, so "
            f"there is nothing to prefer; add {other} ones, or use rlpost sft on good ones"
        )


def _require_two_prompts(corpus: Corpus) -> None:
    """Raises DataError: all rows have one prompt, so no completion can be put behind another's."""
    first = _prompt_of(corpus, 0)
    if all(_prompt_of(corpus, row) == first for row in range(1, len(corpus))):
        raise DataError(
            f"{corpus.examples(0)[0].address}: each row of {corpus.name} has this row's prompt, "
            "but the reference point of the loss is measured on completions of other prompts; add "
            "rows of other prompts, or use pairs with loss=dpo"
        )


def _prompt_of(corpus: Corpus, row: int) -> bytes:
    examples = corpus.examples(row)
    return examples[0].ids[: shared_prompt(examples)].tobytes()


def _require_room(corpus: Corpus, packer: ResponsePacker) -> None:
    """Raises DataError: a pair does not fit into a micro-batch."""
    for row in np.flatnonzero(corpus.lengths_N > packer.max_tokens).tolist():
        pair = corpus.examples(row)
        shared = shared_prompt(pair) if packer.share_prompts else 0
        size = sum(map(len, pair)) - shared
        if size > packer.max_tokens:
            raise DataError(
                f"{pair[0].address}: the pair has {size} tokens, its prompt "
                f"{'once' if packer.share_prompts else 'twice'}, and a micro-batch holds it as a "
                f"whole; raise trainer.max_tokens_per_micro_batch={packer.max_tokens}, shorten the "
                "row, or leave it out"
            )
