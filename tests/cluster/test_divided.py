"""Groups of ranks that divide a frozen model: who is asked of what, and what a lost rank costs."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from episodes import episode, trajectory

from rlpost.cluster.divided import DividedRank, DividedScorers
from rlpost.cluster.frozen_ranks import FrozenRanks
from rlpost.cluster.ranks import Ranks
from rlpost.cluster.reference import ReferenceGroup
from rlpost.cluster.reward import DividedRewardRank, RewardGroup, reward_slots
from rlpost.errors import NoAnswer, ProcessDied, UserError
from rlpost.training.reward.reader import RewardSample
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.types import Group, Prompt, Verdict


class Here:
    """Hands over what ranks would be given."""

    def parts(self, packed: Any) -> Any:
        return packed.batches


class Doubling:
    """Plays ``DividedScorer``: doubles numbers; counts passes like all ranks must."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.given: list[int] = []

    def score(self, batches: list[int], *, temperature: float, passes: int) -> list[float]:
        assert len(batches) <= passes
        self.passes.append(passes)
        self.given += batches
        return [temperature * batch for batch in batches]

    def sleep(self) -> int:
        return 5


class Process:
    """An actor of one rank; raises what ``trouble`` says of a call of a generation of the group."""

    def __init__(self, actor: Any, rank: int, generation: int, trouble: dict) -> None:
        self.actor, self.trouble = actor, trouble
        self.rank, self.generation, self.is_set_up, self.killed = rank, generation, False, False

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        assert not self.killed
        error = self.trouble.get((self.generation, self.rank, method))
        if error is not None:
            raise error
        await asyncio.sleep(0)
        if method == "address":
            return "here", 1
        if method == "setup":
            assert not self.is_set_up, "a rank joins its group once"
            self.is_set_up = True
            return None
        assert self.is_set_up
        return getattr(self.actor, method)(*args, **kwargs)

    def kill(self) -> None:
        self.killed = True


class Cluster:
    """Spawns groups of ``num`` processes of an actor, around ``scorer``."""

    def __init__(
        self, num: int, trouble: dict | None = None, *, cls: type = DividedRank, scorer=Doubling
    ) -> None:
        self.num, self.trouble, self.cls, self.scorer = num, trouble or {}, cls, scorer
        self.groups: list[list[Process]] = []

    def spawn(self) -> list[Process]:
        number, group = len(self.groups), []
        for rank in range(self.num):
            actor = self.cls(rank=rank)
            actor._scorer = self.scorer()
            group.append(Process(actor, rank, number, self.trouble))
        self.groups.append(group)
        return group

    def ranks(self, **options: Any) -> FrozenRanks:
        return FrozenRanks(Ranks(self.spawn, settings={}), **options)

    def scorers(self, **options: Any) -> DividedScorers:
        return DividedScorers(self.ranks(**options), num=self.num)


async def scored(scorers: DividedScorers, batches: list[list[int]]) -> list[list[float]]:
    group = ReferenceGroup(scorers, store=Here())
    await group.setup()
    return await group.score(SimpleNamespace(batches=batches), temperature=2.0)


@pytest.mark.parametrize("num", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "batches", [[[1, 2, 3, 4, 5]], [[1, 2], [3, 4]], [[7], []], [[], []], [[1], [2], [3]]]
)
def test_all_ranks_make_equally_many_passes_and_each_batch_is_answered_once(num, batches):
    cluster = Cluster(num)
    found = asyncio.run(scored(cluster.scorers(), batches))
    assert found == [[2.0 * batch for batch in of_rank] for of_rank in batches]
    (group,) = cluster.groups
    given = [process.actor._scorer.given for process in group]
    everything = [batch for of_rank in batches for batch in of_rank]
    assert sorted(batch for mine in given for batch in mine) == sorted(everything)
    made = [process.actor._scorer.passes for process in group]
    assert made == [made[0]] * num
    assert sum(made[0]) == max(map(len, given))  # the fewest that will do
    assert max(map(len, given)) <= -(-len(everything) // num) + len(batches) - 1


@pytest.mark.parametrize("error", [ProcessDied("rank 1 is gone"), NoAnswer("rank 1 hangs")])
@pytest.mark.parametrize("method", ["ask", "setup", "address"])
def test_a_group_that_lost_a_rank_is_replaced_and_asked_again(error, method):
    rank = 0 if method == "address" else 1
    cluster = Cluster(2, {(0, rank, method): error})
    assert asyncio.run(scored(cluster.scorers(), [[1, 2, 3]])) == [[2.0, 4.0, 6.0]]
    first, second = cluster.groups
    assert all(process.killed for process in first)
    assert not any(process.killed for process in second)


def test_what_never_answers_ends_as_a_dead_process_and_not_as_lost_training():
    every = {(group, 1, "ask"): NoAnswer("rank 1 hangs") for group in range(9)}
    cluster = Cluster(2, every)
    with pytest.raises(ProcessDied, match="rank 1 hangs") as caught:
        asyncio.run(scored(cluster.scorers(attempts=2), [[1]]))
    assert caught.type is ProcessDied and len(cluster.groups) == 2


def test_what_a_person_can_fix_is_not_tried_again():
    cluster = Cluster(2, {(0, 1, "setup"): UserError("model.path is damaged")})
    with pytest.raises(UserError, match="damaged"):
        asyncio.run(scored(cluster.scorers(), [[1]]))
    assert len(cluster.groups) == 1


def test_calls_that_fail_together_replace_the_group_once():
    cluster = Cluster(2, {(0, 0, "ask"): ProcessDied("rank 0 is gone")})

    async def both() -> list[Any]:
        scorers = cluster.scorers()
        group = ReferenceGroup(scorers, store=Here())
        await group.setup()
        packed = [SimpleNamespace(batches=[[n, 2 * n]]) for n in (1, 5)]
        return await asyncio.gather(*(group.score(each, temperature=2.0) for each in packed))

    assert asyncio.run(both()) == [[[2.0, 4.0]], [[10.0, 20.0]]]
    assert len(cluster.groups) == 2


def test_ranks_that_sleep_say_how_much_and_a_lost_group_counts_as_asleep():
    cluster = Cluster(2, {(0, 1, "sleep"): ProcessDied("rank 1 is gone")})

    async def story() -> list[Any]:
        group = ReferenceGroup(cluster.scorers(), store=Here())
        await group.setup()
        asleep = [await group.sleep(), await group.sleep()]
        answers = await group.score(SimpleNamespace(batches=[[3]]), temperature=2.0)
        return [*asleep, answers, await group.sleep()]

    assert asyncio.run(story()) == [0, 0, [[6.0]], 10]


def group_of(*texts: str) -> Group:
    episodes = tuple(episode(trajectory((2,)), sample=i, text=t) for i, t in enumerate(texts))
    return Group(prompt=Prompt(uid="0:0", token_ids=(1,), text="hi"), episodes=episodes)


class Judge:
    """Plays ``RewardScorer``: the reward of a text is its length."""

    def judge(self, samples: list[RewardSample]) -> list[Verdict]:
        return [Verdict(verifier="taste", reward=float(len(each.text))) for each in samples]

    def sleep(self) -> int:
        return 5


def test_ranks_that_divide_a_reward_model_judge_as_one():
    trouble = {(0, 1, "judge"): ProcessDied("rank 1 is gone")}
    cluster = Cluster(2, trouble, cls=DividedRewardRank, scorer=Judge)
    configs = {"taste": RewardModelConfig(path="x", zero_stage=3, num_ranks=2)}
    assert reward_slots("taste", configs["taste"]) == [
        "reward model taste rank 0", "reward model taste rank 1",
    ]  # fmt: skip
    assert reward_slots("taste", RewardModelConfig(path="x")) == ["reward model taste"]

    async def story() -> list[Any]:
        rewards = RewardGroup({"taste": cluster.ranks()}, configs=configs)
        await rewards.setup()
        assert all(process.is_set_up for process in cluster.groups[0])
        groups = [group_of("a", "bbb"), group_of("cc")]
        judged = await asyncio.gather(*(rewards.judge(group) for group in groups))
        return [*judged, await rewards.sleep()]

    *judged, slept = asyncio.run(story())
    assert [[verdict.reward for (verdict,) in rows] for rows in judged] == [[1.0, 3.0], [2.0]]
    assert slept == 10 and len(cluster.groups) == 2
