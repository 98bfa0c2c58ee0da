"""Reward models in Ray actors, behind ``rollout.collector.GroupJudge``.

Owns one actor per model, or ranks that divide it, and the running normalisation. Refuses to own
scoring (training/reward/scorer.py) and weights (verifiers/combine.py). Invariants: a failure is a
verdict without a reward; within a step every score is normalised by the same statistics, whatever
the order in which groups arrive; what a step adds does not depend on that order either.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from rlpost.algorithms.running import RunningStatistics
from rlpost.cluster.frozen_ranks import FrozenRanks
from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.ranks import rank_names, rendezvous_address, spawn_ranks
from rlpost.cluster.session import Session
from rlpost.training.reward.reader import RewardSample
from rlpost.training.reward.scorer import RewardScorer
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.training.zero.rank import Rank
from rlpost.types import Group, Verdict


class DividedRewardRank:
    """What runs in each process of a reward model whose weights ranks divide."""

    def __init__(self, *, rank: int) -> None:
        self._rank = rank

    def address(self) -> tuple[str, int]:
        """Return where the ranks meet: this node's address and a free port."""
        return rendezvous_address()

    def setup(self, *, world_size: int, master: tuple[str, int], **settings: Any) -> None:
        """Join the others and load this rank's part; ``settings`` are those of ``RewardScorer``."""
        host, port = master
        place = Rank(rank=self._rank, world_size=world_size, master_address=host, master_port=port)
        self._scorer = RewardScorer(**settings, place=place)

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        """See ``RewardScorer.judge``; every rank answers for all of them."""
        return self._scorer.judge(samples)

    def sleep(self) -> int:
        return self._scorer.sleep()


class JudgingModel(Protocol):
    """The driver's end of one reward model: an actor, or ranks that divide it."""

    async def call(self, method: str, *args: Any) -> Any:
        """Call it, on new processes when the old ones died or hang."""

    async def sleep(self) -> int:
        """Leave memory until the next call; returns the bytes."""


class RewardGroup:
    """The driver's end of all reward models: a ``GroupJudge`` whose verdicts are their scores.

    Where ``normalize`` is on, verdicts hold normalised scores and the raw ones in
    ``info["raw"]``. Call ``absorb`` once a step, after collecting: until then the step's
    scores do not move the statistics. The first step is not normalised.
    """

    def __init__(
        self, handles: Mapping[str, JudgingModel], *, configs: Mapping[str, RewardModelConfig]
    ) -> None:
        self._handles = dict(handles)
        self._statistics = {
            name: RunningStatistics() for name in handles if configs[name].normalize
        }
        self._fresh: dict[str, list[float]] = {name: [] for name in self._statistics}

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        """Score every episode with every model; see ``GroupJudge``."""
        samples = [RewardSample.of(group.prompt, episode) for episode in group.episodes]
        columns = await asyncio.gather(*(h.call("judge", samples) for h in self._handles.values()))
        return [tuple(map(self._normalized, row)) for row in zip(*columns, strict=True)]

    def _normalized(self, verdict: Verdict) -> Verdict:
        statistics = self._statistics.get(verdict.verifier)
        if statistics is None or verdict.reward is None:
            return verdict
        score = verdict.reward
        self._fresh[verdict.verifier].append(score)
        reward = statistics.normalized(score) if statistics.count > 1 else score
        return replace(verdict, reward=reward, info={"raw": score})

    async def setup(self) -> None:
        """Have ranks load their parts; others load when they are spawned, and calls wait.

        Raises:
            UserError: a model cannot be loaded in parts.
            InfrastructureError: a rank did not come up.
        """
        divided = (each for each in self._handles.values() if isinstance(each, FrozenRanks))
        await asyncio.gather(*(ranks.setup() for ranks in divided))

    async def sleep(self) -> int:
        """Leave memory until the next call; returns the bytes of all models together."""
        return sum(await asyncio.gather(*(handle.sleep() for handle in self._handles.values())))

    def absorb(self) -> dict[str, float]:
        """Move the step's scores into the statistics; returns their moments as metrics."""
        metrics: dict[str, float] = {}
        for name, statistics in self._statistics.items():
            # Sorted: the moments must not depend on which group was scored first.
            fresh = sorted(self._fresh[name])
            statistics.update(fresh)
            if fresh:
                metrics[f"reward/{name}/raw_mean"] = sum(fresh) / len(fresh)
            self._fresh[name] = []
            metrics |= {
                f"reward/{name}/running_mean": statistics.mean,
                f"reward/{name}/running_std": statistics.std,
            }
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; JSON."""
        return {
            name: {"statistics": statistics.state_dict(), "fresh": list(self._fresh[name])}
            for name, statistics in self._statistics.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, statistics in self._statistics.items():
            if name in state:  # a model that was added since starts afresh
                statistics.load_state_dict(state[name]["statistics"])
                # What was scored since is scored again, but for groups that were ready.
                self._fresh[name] = list(state[name]["fresh"])


def reward_name(model: str) -> str:
    """Example: ``reward_name("helpful") == "reward model helpful"``."""
    return f"reward model {model}"


def reward_slots(model: str, cfg: RewardModelConfig) -> list[str]:
    """Return the slots of a model, one of which each of its ranks has."""
    name = reward_name(model)
    return [name] if cfg.zero_stage == 0 else rank_names(name, cfg.num_ranks)


def spawn_reward(
    session: Session,
    configs: Mapping[str, RewardModelConfig],
    *,
    model_paths: Mapping[str, str],
    policy_path: str,
    call_timeout_s: float,
) -> RewardGroup:
    """Create one frozen scorer per model, or the ranks that divide it.

    Call ``setup`` on the group before it judges.

    Args:
        session: the run's.
        configs: name (as in ``Verdict.verifier``) -> options; ``check`` them first.
        model_paths: name -> located ``path``.
        policy_path: the policy's model, located.
        call_timeout_s: deadline of scoring one group.
    """

    def settings(name: str, cfg: RewardModelConfig) -> dict[str, Any]:
        return {
            "cfg": cfg,
            "model_path": model_paths[name],
            "policy_path": policy_path,
            "name": name,
        }

    def spawn(name: str, cfg: RewardModelConfig) -> Handle:
        (slot,) = reward_slots(name, cfg)
        actor = session.spawn(RewardScorer, slot=slot, **settings(name, cfg))
        return Handle(actor, name=slot, timeout_s=call_timeout_s)

    def model(name: str, cfg: RewardModelConfig) -> JudgingModel:
        if cfg.zero_stage == 0:
            return Stateless(partial(spawn, name, cfg))
        ranks = spawn_ranks(
            session,
            DividedRewardRank,
            slots=reward_slots(name, cfg),
            call_timeout_s=call_timeout_s,
            settings=settings(name, cfg),
        )
        return FrozenRanks(ranks)

    return RewardGroup({name: model(name, cfg) for name, cfg in configs.items()}, configs=configs)
