"""How the parts come to be from which a policy gets its own samples, judged.

Owns the start of a run's roles, their assembly and their end. Refuses to own the checks (plan.py)
and what drives them (parts.py).
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from rlpost.algorithms.advantages import GroupStatistics, group_statistics, rewards_matrix
from rlpost.control.learning import Learning
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import Staleness
from rlpost.data.cursor import PromptCursor
from rlpost.rollout.collector import GroupJudge
from rlpost.rollout.producer import Producer, PromptStream
from rlpost.stages.roles import Role, close_all
from rlpost.stages.run import Run
from rlpost.stages.sampling.examiner import Examiner
from rlpost.stages.sampling.generation import generation_of
from rlpost.stages.sampling.parts import SamplingParts
from rlpost.stages.sampling.plan import SamplingPlan
from rlpost.stages.sampling.probe import probe_of
from rlpost.types import Group
from rlpost.verifiers.golds import GoldWatch


class SamplesPlan(Protocol):
    """What the plans of stages that sample have in common."""

    @property
    def cfg(self) -> Any:
        """The stage's options, such as ``RLConfig``."""

    @property
    def roles(self) -> Sequence[Role]:
        """Who exists; ``trainer`` is the policy."""

    @property
    def sampling(self) -> SamplingPlan:
        """Prompts, and who answers and judges them."""


def reward_statistics(groups: Sequence[Group]) -> GroupStatistics:
    """Return what the rewards of groups say, as they are."""
    return group_statistics(rewards_matrix([group.rewards for group in groups]))


class OwnSamples:
    """The roles of a run with its generators and judges, from their start to their end.

    ``groups`` are those of the roles, by their names.

    Example::

        async with own_samples(plan, run) as own:
            sampling = own.parts(prompts_per_step=16, stream=...)
    """

    def __init__(self, plan: SamplingPlan, cfg: Any, run: Run) -> None:
        """``cfg`` has the options of a stage that samples, such as ``RLConfig``."""
        self._plan, self._cfg, self._run = plan, cfg, run
        self.groups: Mapping[str, Any] = {}
        self._generation = generation_of(
            run,
            cfg,
            plan.generator,
            model_path=plan.model_path,
            adapters=plan.adapters,
            group_size=cfg.rollout.group_size,
        )

    async def start(self, roles: Sequence[Role]) -> None:
        """Start every role, the generators among them.

        Raises:
            UserError: not every actor fits into the cluster.
            InfrastructureError: an actor did not come up.
        """
        self._plan.log_rows()
        started = await self._run.start(roles, supervised=self._generation.supervisor.boot)
        self.groups = dict(zip((role.name for role in roles), started, strict=True))

    def parts(
        self,
        *,
        prompts_per_step: int,
        stream: Callable[[PromptCursor], PromptStream],
        statistics: Callable[[Sequence[Group]], GroupStatistics] = reward_statistics,
    ) -> SamplingParts:
        """Connect the generators with the policy, whose weights are pushed, and its judges.

        Args:
            prompts_per_step: groups that a step trains on.
            stream: makes of the order of prompts what the producer draws from.
            statistics: of the groups of a step.
        """
        plan, cfg, run, generation = self._plan, self._cfg, self._run, self._generation
        rewards = self.groups.get("rewards")
        cursor = PromptCursor(
            len(plan.train_set),
            seed=cfg.seed,
            shuffle=plan.data.shuffle,
            fingerprint=plan.train_set.fingerprint,
        )
        ledger, staleness = Ledger(), Staleness(cfg.rl, batch=prompts_per_step)
        verifiers: list[GroupJudge] = self._verifiers
        judges = [*verifiers, *([] if rewards is None else [rewards])]
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
                collector=collecting(verifiers, combination=measured, purpose="heldout"),
                sampling=replace(cfg.rollout.sampling, temperature=cfg.evaluation.temperature),
                samples=cfg.evaluation.samples,
                seed=cfg.seed,
            ),
            rewards=rewards,
            learning=Learning(cfg.failures),
            bus=generation.bus(
                self.groups["trainer"].source,
                trainer=cfg.trainer,
                weights=cfg.weights,
                probe=probe_of(plan.train_set, cfg.weights),
                trained=list(run.trained.values()),
            ),
            statistics=statistics,
        )

    def watch_golds(self) -> AbstractContextManager[Any]:
        """Return what tries the answers of all rows while the run goes on; see ``GoldWatch``."""
        plan = self._plan
        data = [rows for rows in (plan.train_set, plan.heldout_set) if rows is not None]
        if not plan.verifiers:
            return nullcontext()
        return GoldWatch(plan.verifiers, data, warn=self._run.warn)

    @property
    def _verifiers(self) -> list[Any]:
        """The group that judges every response; none where no verifier does."""
        found = self.groups.get("verifiers")
        return [] if found is None else [found]

    async def close(self) -> None:
        """End generators and verifiers."""
        await close_all([self._generation.supervisor, *self._verifiers])


@asynccontextmanager
async def own_samples(plan: SamplesPlan, run: Run) -> AsyncIterator[OwnSamples]:
    """Start every role of ``plan`` side by side, and end what samples and judges.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    own = OwnSamples(plan.sampling, plan.cfg, run)
    await own.start(plan.roles)
    try:
        with own.watch_golds():
            yield own
    finally:
        await own.close()
