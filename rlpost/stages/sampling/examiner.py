"""Held-out prompts answered and judged, and what the answers are worth.

Owns the order and the scoring that every stage shares: RL during training, ``rlpost evaluate``,
and any stage with generators. Refuses to own generators, judges and the arithmetic of scores
(evaluation/). Invariants: the same prompt and seed give the same request in every stage and at
every step; each group is handed over as soon as it is judged.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlpost.errors import InfrastructureError
from rlpost.evaluation.scores import SampleOutcome, score
from rlpost.rollout.collector import Collector
from rlpost.types import Episode, Group, Prompt, SamplingConfig
from rlpost.verifiers.base import ABSTAINED
from rlpost.verifiers.metrics import verdict_means


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The answers to some prompts, in their order, and the prompts that could not be answered."""

    groups: tuple[Group, ...]
    failed: Mapping[str, str] = field(default_factory=dict)  # uid -> reason


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """Has prompts answered and judged.

    Example::

        examiner = Examiner(collector=collector, sampling=sampling, samples=4, seed=cfg.seed)
        examination = await examiner.examine(prompts)
        record.add(heldout_metrics(examination, dataset="math", samples=4))
    """

    collector: Collector
    sampling: SamplingConfig
    samples: int
    seed: int

    async def examine(
        self, prompts: Sequence[Prompt], *, judged: Callable[[Group], None] = lambda group: None
    ) -> Examination:
        """Answer every prompt; ``judged`` is told of each group when it is done.

        Raises:
            RunFailed: the budget of failures is used up.
        """

        async def answered(prompt: Prompt) -> Group:
            collected = await self.collector.group(
                prompt, num_samples=self.samples, sampling=self.sampling, seed=self.seed
            )
            judged(collected.group)
            return collected.group

        tasks = [asyncio.create_task(answered(prompt)) for prompt in prompts]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        groups, failed = [], {}
        for prompt, result in zip(prompts, results, strict=True):
            if isinstance(result, InfrastructureError):
                failed[prompt.uid] = str(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                groups.append(result)
        return Examination(groups=tuple(groups), failed=failed)


def heldout_metrics(
    examination: Examination, *, dataset: str, samples: int, intervals: bool = False
) -> dict[str, float]:
    """Return ``val-core/<dataset>/...``; see ``ScoreSheet.metrics``.

    Where there are several rewards, ``val-aux/<dataset>/<name>/mean@N`` is each one's own mean.
    """
    outcomes = [[outcome_of(e) for e in group.episodes] for group in examination.groups]
    sheet = score([*outcomes, *[[] for _ in examination.failed]], samples=samples)
    metrics = sheet.metrics(dataset, intervals=intervals)
    means = verdict_means(examination.groups)
    if len(means) > 1:
        metrics |= {f"val-aux/{dataset}/{n}/mean@{samples}": mean for n, mean in means.items()}
    return metrics


def outcome_of(episode: Episode) -> SampleOutcome:
    """Return what a judged response counts for, without its vote."""
    return SampleOutcome(
        reward=episode.reward,
        failed=failure_of(episode) is not None,
        truncated=episode.truncated,
    )


def failure_of(episode: Episode) -> str | None:
    """Return why a verifier gave no verdict; None also where all abstained."""
    if episode.reward is not None:
        return None
    errors = (verdict.error for verdict in episode.verdicts)
    return next((error for error in errors if error not in (None, ABSTAINED)), None)
