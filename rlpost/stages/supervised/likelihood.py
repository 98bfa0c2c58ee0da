"""Stages that learn the likelihood of examples: what is planned, and how it is trained.

Owns the roles, the batch and the job of such a stage. Refuses to own where examples come from and
what they look like (sft.py, pretrain.py). Invariant: the reference exists only if the objective
reads it.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from rlpost.algorithms.reduce import ExampleAggregation
from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.cluster.session import Device
from rlpost.data.conversation.preflight import as_json, preflight
from rlpost.data.corpus.corpus import Corpus
from rlpost.data.example import Example
from rlpost.data.mixture import Mixture
from rlpost.models.locate import context_length
from rlpost.stages.fit import Fit
from rlpost.stages.policy import CheckedPolicy
from rlpost.stages.roles import Role, reference_role, sleep_all, trained_role
from rlpost.stages.run import Run
from rlpost.stages.supervised.account import (
    data_used,
    trained_tokens_by_source,
)
from rlpost.stages.supervised.batch import ExamplePacker, with_noise
from rlpost.stages.supervised.heldout import HeldoutLoss
from rlpost.tracking.files.examples import write_examples
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import TrainerConfig

log = logging.getLogger(__name__)

SHOWN_ROWS = 3  # of each source

Sequences = Callable[[Sequence[Example]], list[Example]]  # drawn examples -> what is packed


@dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    """A run that passed every check; nothing was written or started yet."""

    cfg: Any  # SFTConfig or PretrainConfig, with the number of steps
    device: Device
    model_path: str
    roles: list[Role]  # who exists
    objective: LikelihoodObjective
    train: Mixture
    shown: Sequence[Mapping[str, Any]]  # some training examples, as ``write_examples`` takes them
    skipped: Sequence[str]  # rows that were left out, and why
    heldout: Mapping[str, Sequence[Example]]  # by source
    sequences: Sequences = list
    aggregation: ExampleAggregation = ExampleAggregation.token_mean
    neftune_alpha: float = 0.0

    @property
    def stage(self) -> str:
        """The stage's name, which begins its metrics."""
        return self.objective.metrics


def roles_of(
    cfg: Any, *, policy: CheckedPolicy, objective: LikelihoodObjective, device: Device
) -> list[Role]:
    """Return the policy that is trained and, for a KL to it, a copy of where it started."""
    model = TrainedModel.policy(policy.path, cfg.trainer, metrics=objective.metrics)
    common: dict[str, Any] = {"model": model, "cluster": cfg.cluster, "device": device}
    roles = [trained_role("trainer", cfg.trainer, seed=cfg.seed, **common)]
    if objective.kl_coefficient > 0:
        roles.append(reference_role(cfg.trainer, **common))
    return roles


def longest_example(policy: CheckedPolicy, trainer: TrainerConfig) -> int:
    """Return how many tokens an example may have: the model's context, or a micro-batch."""
    limit = min(context_length(policy.path), trainer.max_tokens_per_micro_batch)
    return limit if policy.rehearsal.window is None else min(limit, policy.rehearsal.window)


def more_tokens(policy: CheckedPolicy, trainer: TrainerConfig) -> str:
    """Return how an example may be longer than ``longest_example``."""
    if longest_example(policy, trainer) < trainer.max_tokens_per_micro_batch:
        return "use a model with a longer context"
    return "raise trainer.max_tokens_per_micro_batch, which holds each example as a whole"


def shown_examples(train: Mixture, tokenizer: Any) -> list[dict[str, Any]]:
    """Return the first examples of each source with what is trained of them marked."""
    return [
        {"source": name, **each}
        for name, corpus in train.corpora.items()
        for row in range(min(SHOWN_ROWS, len(corpus)))
        for each in as_json(preflight(corpus.examples(row), tokenizer))
    ]


def drawn_in_order(corpus: Corpus) -> list[Example]:
    """Return the examples of all rows of a held-out corpus."""
    return [each for row in range(len(corpus)) for each in corpus.examples(row)]


@asynccontextmanager
async def boot(plan: LikelihoodPlan, run: Run) -> AsyncIterator[Fit]:
    """Start the roles and yield the job.

    Raises:
        UserError: not every actor fits into the cluster, or the checkpoint is of other data.
        InfrastructureError: an actor did not come up.
    """
    cfg = plan.cfg
    write_examples(run.directory.examples, plan.shown)
    if plan.skipped:
        log.warning("%d rows of the data were skipped", len(plan.skipped))
    for reason in plan.skipped:
        log.info("skipped: %s", reason)
    policy, *frozen = await run.start(plan.roles)
    mixture = run.keep("mixture", plan.train)
    packer = ExamplePacker(
        num_ranks=cfg.trainer.num_ranks,
        max_tokens=cfg.trainer.max_tokens_per_micro_batch,
        fill=cfg.trainer.packing,
        aggregation=plan.aggregation,
    )

    by_source: dict[str, float] = {}

    async def batch() -> Packed:
        nonlocal by_source
        rows = mixture.take(cfg.examples_per_step)
        by_source = trained_tokens_by_source(rows)
        examples = plan.sequences(rows)
        packed = packer(examples)
        for reference in frozen:
            if cfg.cluster.offload_idle:
                await policy.sleep()
            scores = await reference.score(packed.batches)
            packed = packed.attach(ref_logprobs_R=packed.by_item(scores))
            if cfg.cluster.offload_idle:
                await sleep_all(reference)
        return with_noise(
            packed, examples, alpha=plan.neftune_alpha, seed=cfg.seed, step=run.step + 1
        )

    heldout = HeldoutLoss(
        stage=plan.stage,
        policy=policy,
        packer=replace(packer, fill=True),
        sources=plan.heldout,
        progress=run.progress,
    )
    yield Fit(
        run=run,
        policy=policy,
        objective=plan.objective,
        batch=batch,
        base=cfg.model.path,
        stage=plan.stage,
        heldout=heldout if plan.heldout else None,
        drawn=lambda: {"training/epoch": mixture.epoch, **by_source},
        data=data_used(cfg.data, mixture, plan.heldout),
    )
