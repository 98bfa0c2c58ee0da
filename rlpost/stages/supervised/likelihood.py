"""Stages that learn the likelihood of examples: what is planned, and how it is trained.

Owns the roles, the batch and the job of such a stage. Refuses to own where examples come from and
what they look like (sft.py, pretrain.py). Invariant: the reference exists only if the objective
reads it.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from rlpost.algorithms.reduce import ExampleAggregation
from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.cluster.session import Device
from rlpost.data.example import Example
from rlpost.data.splits import Splits
from rlpost.stages.fit import Fit
from rlpost.stages.learning.begin import DrawnRows, begin, fit_of
from rlpost.stages.learning.prepare import Foundation, shown_examples
from rlpost.stages.learning.step_size import step_of_rows
from rlpost.stages.reference_role import reference_role
from rlpost.stages.roles import Role
from rlpost.stages.run import Run
from rlpost.stages.sampling.suites import SuiteEngines, SuiteScores, SuitesPlan
from rlpost.stages.start_reference import (
    Score,
    first_sequences,
    require_same_start,
    score_beside,
    start_reference,
)
from rlpost.stages.supervised.batch import ExamplePacker, with_noise
from rlpost.stages.supervised.heldout import heldout_loss
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.pack import Packed
from rlpost.training.packing.step_size import StepSize

Sequences = Callable[[Sequence[Example]], list[Example]]  # drawn examples -> what is packed


@dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    """A run that passed every check; nothing was written or started yet."""

    cfg: Any  # SFTConfig or PretrainConfig, with the number of steps
    device: Device
    model_path: str
    roles: list[Role]  # who exists
    objective: LikelihoodObjective
    splits: Splits
    suites: SuitesPlan | None  # that generators answer
    has_adapter: bool  # on the policy
    shown: Sequence[Mapping[str, Any]]  # some training examples, as ``write_examples`` takes them
    sequences: Sequences = list
    aggregation: ExampleAggregation = ExampleAggregation.token_mean
    neftune_alpha: float = 0.0

    @classmethod
    def of(
        cls,
        base: Foundation,
        cfg: Any,
        splits: Splits,
        *,
        objective: LikelihoodObjective,
        **own: Any,
    ) -> "LikelihoodPlan":
        """Make a plan of what was prepared; ``own`` are the fields that a stage adds."""
        return cls(
            cfg=cfg,
            device=base.device,
            model_path=base.policy.path,
            roles=_roles(cfg, base, objective),
            objective=objective,
            splits=splits,
            suites=base.suites,
            has_adapter=base.policy.adapter is not None,
            shown=shown_examples(splits.train, base.policy.tokenizer),
            **own,
        )

    @property
    def stage(self) -> str:
        """The stage's name, which begins its metrics."""
        return self.objective.metrics

    @property
    def step_size(self) -> StepSize:
        return step_of_rows(self.cfg, self.splits)


def _roles(cfg: Any, base: Foundation, objective: LikelihoodObjective) -> list[Role]:
    """Return the policy, for a KL to it a copy of where it started, and who answers suites."""
    model = TrainedModel.policy(
        base.policy.path, cfg.trainer, metrics=objective.metrics, adapter=base.policy.adapter
    )
    roles = [base.trained_role(cfg, model)]
    if objective.kl_coefficient > 0 and not model.is_own_reference:
        roles.append(
            reference_role(
                cfg.trainer,
                model=model,
                ranks=cfg.reference,
                cluster=cfg.cluster,
                device=base.device,
            )
        )
    return [*roles, *base.suite_roles]


@asynccontextmanager
async def boot(plan: LikelihoodPlan, run: Run) -> AsyncIterator[Fit]:
    """Start the roles and yield the job.

    Raises:
        UserError: not every actor fits into the cluster, or the checkpoint is of other data.
        InfrastructureError: an actor did not come up.
    """
    cfg = plan.cfg
    async with SuiteEngines(plan.suites, cfg, run, model_path=plan.model_path) as engines:
        groups, rows = await begin(plan, run, supervised=engines.boot)
        policy, *frozen = engines.without_own(groups)
        suites = engines.scores(groups)  # from here on engines leave for who trains
        score = None
        if plan.objective.kl_coefficient > 0:
            reference = start_reference(frozen[0] if frozen else None, policy=policy)
            score = score_beside(reference, policy=policy, cfg=cfg.cluster)
            if plan.has_adapter:
                await require_same_start(
                    score,
                    policy=policy,
                    sequences=first_sequences(plan.splits),
                    cfg=cfg.trainer,
                )
        yield _fit(plan, run, rows, policy, score=score, suites=suites)


def _fit(
    plan: LikelihoodPlan,
    run: Run,
    rows: DrawnRows,
    policy: Any,
    *,
    score: Score | None,
    suites: SuiteScores | None,
) -> Fit:
    """Return the job of the policy; ``score`` is the reference's, if there is one."""
    cfg = plan.cfg
    packer = ExamplePacker.of(cfg.trainer, aggregation=plan.aggregation, model_path=plan.model_path)

    async def batch() -> Packed:
        examples = plan.sequences(rows.take())
        packed = packer(examples)
        if score is not None:
            packed = packed.attach(ref_logprobs_R=packed.by_item(await score(packed)))
        return with_noise(
            packed, examples, alpha=plan.neftune_alpha, seed=cfg.seed, step=run.step + 1
        )

    heldout = heldout_loss(
        plan.stage,
        policy=policy,
        packer=replace(packer, fill=True),
        sources={
            name: plan.sequences(corpus.all_examples())
            for name, corpus in plan.splits.heldout.items()
        },
        progress=run.progress,
    )
    return fit_of(plan, run, rows, policy=policy, batch=batch, heldout=heldout, suites=suites)
