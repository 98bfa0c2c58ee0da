"""How the parts come to be from which a policy gets its own samples, judged.

Owns their assembly and their end. Refuses to own the checks (plan.py) and what drives them
(parts.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rlpost.algorithms.advantages import GroupStatistics
from rlpost.cluster.reward import RewardGroup
from rlpost.cluster.trained import TrainedGroup
from rlpost.cluster.verifiers import RemoteVerifiers
from rlpost.control.learning import Learning
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import Staleness
from rlpost.data.cursor import PromptCursor
from rlpost.rollout.collector import GroupJudge
from rlpost.rollout.producer import Producer, PromptStream
from rlpost.stages.roles import close_all
from rlpost.stages.run import Run
from rlpost.stages.sampling.examiner import Examiner
from rlpost.stages.sampling.generation import generation_of
from rlpost.stages.sampling.parts import SamplingParts
from rlpost.stages.sampling.plan import SamplingPlan
from rlpost.stages.sampling.probe import probe_of
from rlpost.types import Group


class OwnSamples:
    """Generators and judges of a run, from their start to their end.

    Example::

        own = OwnSamples(plan, cfg, run)
        trainer, _, verifiers = await run.start(roles, supervised=own.boot)
        sampling = own.parts(trainer, verifiers, rewards=None, ...)
    """

    def __init__(self, plan: SamplingPlan, cfg: Any, run: Run) -> None:
        """``cfg`` has the options of a stage that samples, such as ``RLConfig``."""
        self._plan, self._cfg, self._run = plan, cfg, run
        self._generation = generation_of(
            run,
            cfg,
            plan.generator,
            model_path=plan.model_path,
            adapters=plan.adapters,
            group_size=cfg.rollout.group_size,
        )
        self._verifiers: list[RemoteVerifiers] = []

    async def boot(self) -> None:
        """Start the generators.

        Raises:
            InfrastructureError: one did not come up.
        """
        await self._generation.supervisor.boot()

    def parts(
        self,
        trainer: TrainedGroup,
        verifiers: RemoteVerifiers | None,
        *,
        rewards: RewardGroup | None,
        prompts_per_step: int,
        stream: Callable[[PromptCursor], PromptStream],
        statistics: Callable[[Sequence[Group]], GroupStatistics],
    ) -> SamplingParts:
        """Connect the generators with the policy and its judges.

        Args:
            trainer: whose weights are pushed.
            verifiers: judge every response; None: nobody does, or reward models alone.
            rewards: reward models; None: there are none.
            prompts_per_step: groups that a step trains on.
            stream: makes of the order of prompts what the producer draws from.
            statistics: of the groups of a step.
        """
        plan, cfg, run, generation = self._plan, self._cfg, self._run, self._generation
        self._verifiers = [] if verifiers is None else [verifiers]
        cursor = PromptCursor(
            len(plan.train_set),
            seed=cfg.seed,
            shuffle=plan.data.shuffle,
            fingerprint=plan.train_set.fingerprint,
        )
        ledger, staleness = Ledger(), Staleness(cfg.rl, batch=prompts_per_step)
        judges: list[GroupJudge] = [*self._verifiers, *([] if rewards is None else [rewards])]
        collecting = partial(
            generation.collector,
            on_verifier_error=cfg.rollout.on_verifier_error,
            finished=run.progress,
        )
        collector = collecting(
            judges, combination=cfg.combination, purpose="train", interruption=plan.interruption
        )
        measured = cfg.combination.measuring(plan.verifiers)
        return SamplingParts(
            run=run,
            train_set=plan.train_set,
            heldout_set=plan.heldout_set,
            cursor=cursor,
            ledger=ledger,
            staleness=staleness,
            fleet=generation.fleet,
            supervisor=generation.supervisor,
            producer=Producer(
                stream(cursor), collector=collector, ledger=ledger, staleness=staleness
            ),
            collector=collector,
            examiner=Examiner(
                collector=collecting(self._verifiers, combination=measured, purpose="heldout"),
                sampling=replace(cfg.rollout.sampling, temperature=cfg.evaluation.temperature),
                samples=cfg.evaluation.samples,
                seed=cfg.seed,
            ),
            rewards=rewards,
            learning=Learning(cfg.failures),
            bus=generation.bus(
                trainer.source,
                trainer=cfg.trainer,
                weights=cfg.weights,
                probe=probe_of(plan.train_set, cfg.weights),
            ),
            statistics=statistics,
        )

    async def close(self) -> None:
        """End generators and verifiers."""
        await close_all([self._generation.supervisor, *self._verifiers])
