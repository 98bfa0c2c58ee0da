"""Verdicts and normalisation of reward models, with scorers that are a dictionary."""

import json

import pytest
from episodes import episode, trajectory

from rlpost.cluster.reward import RewardGroup
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.types import Group, Prompt, Verdict


class ScoresByText:
    """Implements the one method of ``Handle`` that a group calls."""

    def __init__(self, name: str, scores: dict[str, float | str]) -> None:
        self._name, self._scores = name, scores

    async def call(self, method, samples):
        assert method == "judge"
        return [self._verdict(self._scores[sample.text]) for sample in samples]

    def _verdict(self, score: float | str) -> Verdict:
        if isinstance(score, str):
            return Verdict(verifier=self._name, reward=None, error=score)
        return Verdict(verifier=self._name, reward=score)


def group_of(*texts: str) -> Group:
    episodes = tuple(episode(trajectory((2,)), sample=i, text=t) for i, t in enumerate(texts))
    return Group(prompt=Prompt(uid="0:0", token_ids=(1,), text="hi"), episodes=episodes)


SCORES = {"a": 1.0, "b": 3.0, "c": 5.0, "long": "exceeds"}


def rewards(**options) -> RewardGroup:
    return RewardGroup(
        {
            "helpful": ScoresByText("helpful", SCORES),
            "kind": ScoresByText("kind", {**SCORES, "a": 2.0}),
        },
        configs={
            "helpful": RewardModelConfig(path="x", **options),
            "kind": RewardModelConfig(path="y"),
        },
    )


async def test_every_model_gives_a_verdict_and_a_failure_is_no_reward():
    judged = await rewards().judge(group_of("a", "b", "long"))
    names = [[v.verifier for v in verdicts] for verdicts in judged]
    assert names == [["helpful", "kind"]] * 3
    assert [[v.reward for v in verdicts] for verdicts in judged] == [[1, 2], [3, 3], [None, None]]


async def test_a_step_is_normalised_by_the_steps_before_it():
    group = rewards(normalize=True)
    first = await group.judge(group_of("a", "b", "c", "long"))
    assert first[0][0].reward == 1.0  # nothing is known yet
    assert group.absorb() == {
        "reward/helpful/running_mean": 3.0,
        "reward/helpful/running_std": 2.0,
        "reward/helpful/raw_mean": 3.0,
    }
    again = [(await group.judge(group_of(text)))[0] for text in ("c", "a", "b")]
    found = [verdicts[0].reward for verdicts in again]
    assert found == pytest.approx([1.0, -1.0, 0.0])  # the first of them moved nothing
    assert again[0][0].info == {"raw": 5.0}
    assert again[0][1].reward == 5.0  # ``kind`` is not normalised


async def test_the_order_of_arrival_changes_nothing_and_state_survives_json():
    scores = {str(i): 0.1 * i**3 for i in range(7)}
    states = []
    for order in (range(7), reversed(range(7))):
        group = RewardGroup(
            {"r": ScoresByText("r", scores)},
            configs={"r": RewardModelConfig(path="x", normalize=True)},
        )
        for i in order:
            await group.judge(group_of(str(i)))
        group.absorb()
        states.append(group.state_dict())
    assert states[0] == states[1]
    resumed = rewards(normalize=True)
    resumed.load_state_dict({"helpful": json.loads(json.dumps(states[0]))["r"]})
    assert resumed.state_dict()["helpful"] == states[0]["r"]


async def test_scores_of_an_unfinished_step_survive_and_are_not_counted_twice():
    """What was ready at the checkpoint stays counted; what is scored again counts once."""
    undisturbed, lost = rewards(normalize=True), rewards(normalize=True)
    await lost.judge(group_of("a"))
    state = json.loads(json.dumps(lost.state_dict()))
    await lost.judge(group_of("b"))  # its step is lost, with the trainer
    lost.load_state_dict(state)
    await lost.judge(group_of("b", "c"))
    await undisturbed.judge(group_of("a", "b", "c"))
    assert lost.absorb() == undisturbed.absorb()
