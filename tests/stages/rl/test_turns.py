"""Two turns as an episode, in SmolLM2's tokens: each sampled token is trained once."""

from dataclasses import replace

import numpy as np
import pytest
from episodes import episode, trajectory
from fakes import prompt

from rlpost.algorithms.reduce import ReductionConfig
from rlpost.stages.rl.units import Packing, pack_to_train
from rlpost.types import Group, Span, Trajectory

USER, ASSISTANT = [1, 4093, 198], [1, 520, 9531, 198]  # <|im_start|>user, <|im_start|>assistant
CLOSE, NEWLINE = 2, 198
HI = [*USER, 26843, 30, CLOSE, NEWLINE, *ASSISTANT]
BYE = [*USER, 3087, 85, 30, CLOSE, NEWLINE, *ASSISTANT]
SUM = [*USER, 34, 27, 34, 47, CLOSE, NEWLINE, *ASSISTANT]
NEXT_SUM = [*USER, 35, 27, 35, 47, CLOSE, NEWLINE, *ASSISTANT]
THOUGHT = [44, 17400, 46, 198, 34, 284, 216, 34, 919, 216, 36, 30, 198, 9617, 17400, 46, 198, 198]
ANSWER = [19556, 30, CLOSE]  # what the second turn samples

# First prompt, what was sampled behind it, the second prompt.
TURNS = {
    "the newline behind the closing token was not sampled": (
        HI,
        [19556, 17, CLOSE],
        [*HI, 19556, 17, CLOSE, NEWLINE, *BYE],
    ),
    "a stop string ended the turn, and the closing token was inserted": (
        HI,
        [19556, 17],
        [*HI, 19556, 17, CLOSE, NEWLINE, *BYE],
    ),
    "ids that encoding their text would not give": (
        HI,
        [88, 85, 92, 92, 95, CLOSE],
        [*HI, 88, 85, 92, 92, 95, CLOSE, NEWLINE, *BYE],
    ),
    "the template hides the earlier thinking, so that a second trajectory begins": (
        SUM,
        [*THOUGHT, 36, CLOSE],
        [*SUM, 36, CLOSE, NEWLINE, *NEXT_SUM],
    ),
}


def conversation(first_prompt, sampled, second_prompt):
    """The episode of two turns: one trajectory where the second prompt extends the first turn."""
    turn = [*first_prompt, *sampled]
    if second_prompt[: len(turn)] != turn:
        return episode(
            trajectory(sampled, prompt_ids=first_prompt, versions=1),
            trajectory(ANSWER, prompt_ids=second_prompt, versions=2),
        )
    observed = second_prompt[len(turn) :]
    versions = [1] * len(sampled) + [None] * len(observed) + [2] * len(ANSWER)
    ids = (*sampled, *observed, *ANSWER)
    return episode(trajectory(ids, prompt_ids=first_prompt, versions=versions))


@pytest.mark.parametrize("turns", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("share_prompts", [True, False])
def test_a_turn_is_predicted_from_what_the_engine_read_and_each_token_is_trained_once(
    turns, share_prompts
):
    first_prompt, sampled, second_prompt = turns
    attempt = replace(conversation(*turns), reward=1.0)
    branches = second_prompt[: len(first_prompt) + len(sampled)] != [*first_prompt, *sampled]
    assert len(attempt.trajectories) == 1 + branches
    packed = pack_to_train(
        [Group(prompt=prompt(tokens=first_prompt), episodes=(attempt,))],
        np.ones((1, 1, 1)),
        packing=Packing(num_ranks=1, max_tokens=200, share_prompts=share_prompts),
        reduction=ReductionConfig(),
    )
    ((batch,),) = packed.batches
    assert batch.target_R.tolist() == [*sampled, *ANSWER]
    assert batch.columns["weight_R"] == pytest.approx(1 / (len(sampled) + len(ANSWER)))
    seen = batch.token_ids_T.tolist()
    starts = [start for block in batch.blocks for start in [block.prompt[0]] * len(block.responses)]
    contexts = [
        seen[starts[item] : read + 1]
        for item, read in zip(batch.item_R.tolist(), batch.read_R.tolist(), strict=True)
    ]
    assert contexts[: len(sampled)] == [[*first_prompt, *sampled[:n]] for n in range(len(sampled))]
    assert contexts[len(sampled) :] == [[*second_prompt, *ANSWER[:n]] for n in range(len(ANSWER))]


def test_a_turn_that_was_cut_off_ends_with_a_sampled_token():
    cut = episode(trajectory([33, 216, 34, 216], prompt_ids=HI), finish_reason="length")
    assert cut.truncated and cut.num_sampled == len(cut.response_ids) == 4


@pytest.mark.parametrize(
    ("spans", "num_logprobs"),
    [
        ([(0, 2, 1), (1, 3, 1)], 4),  # a token twice
        ([(2, 3, 1), (0, 1, 1)], 2),
        ([(0, 1, 2), (2, 3, 1)], 2),  # an older version later
        ([(1, 1, 1)], 0),  # nothing
        ([(0, 4, 1)], 4),  # beyond the end
        ([(0, 1, 1), (2, 3, 1)], 3),  # a log-prob of an observation
        ([(0, 1, 1), (2, 3, 1)], 1),
    ],
)
def test_spans_and_logprobs_that_are_not_those_of_sampled_tokens_are_our_bug(spans, num_logprobs):
    with pytest.raises(AssertionError):
        Trajectory(
            prompt_ids=(5,),
            response_ids=(1, 2, 3),
            spans=tuple(Span(start=s, end=e, version=v) for s, e, v in spans),
            rollout_logprobs=(-1.0,) * num_logprobs,
        )
